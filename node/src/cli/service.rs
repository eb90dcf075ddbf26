//! `node install-service` and `node uninstall-service`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use command::settings::default_data_dir;
use command::{Failure, Outcome};

use crate::files;
use crate::service::{Keeper, Scope, Service, folders, keeper};

#[derive(Debug, Args)]
pub(super) struct Install {
    /// Data directory of the node
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// TOML file with the node's settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// For the machine instead of the logged-in user; takes an administrator
    #[arg(long)]
    system: bool,
    /// Show the file and write nothing
    #[arg(long)]
    print: bool,
    /// Write the file and switch nothing on
    #[arg(long)]
    no_start: bool,
}

#[derive(Debug, Args)]
pub(super) struct Uninstall {
    /// Data directory of the node
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// That of the machine instead of the logged-in user's
    #[arg(long)]
    system: bool,
    /// Remove the file and switch nothing off
    #[arg(long)]
    no_stop: bool,
}

fn scope(system: bool) -> Scope {
    if system { Scope::System } else { Scope::User }
}

fn service(
    data_dir: Option<&Path>,
    config: Option<&Path>,
    scope: Scope,
) -> Result<Service, Failure> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))
    };
    let data_dir = data_dir.map_or_else(|| default_data_dir("node"), Path::to_owned);
    let var = |name| {
        std::env::var(name)
            .ok()
            .filter(|user| !user.is_empty() && user != "root")
    };
    Ok(Service {
        program: std::env::current_exe()?,
        data_dir: absolute(&data_dir)?,
        config: config.map(absolute).transpose()?,
        scope,
        // Who called sudo, not root: the node needs no right of an administrator.
        user: var("SUDO_USER").or_else(|| var("USER")),
    })
}

pub(super) fn install(wanted: &Install) -> Outcome {
    let keeper = keeper()?;
    let scope = scope(wanted.system);
    let service = service(wanted.data_dir.as_deref(), wanted.config.as_deref(), scope)?;
    if let Some(missing) = service.config.as_deref().filter(|config| !config.is_file()) {
        return Err(Failure::Usage(format!(
            "--config {}: there is no such file; write it first or leave it out",
            missing.display()
        )));
    }
    let text = keeper.render(&service)?;
    if wanted.print {
        print!("{text}");
        return Ok(());
    }
    let file = keeper.path(&service, &folders()?);
    let failed = |e: std::io::Error| {
        let who = match scope {
            Scope::User => "",
            Scope::System => "; --system takes an administrator",
        };
        Failure::Failed(format!("{}: {e}{who}", file.display()))
    };
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    files::replace(&file, text.as_bytes()).map_err(failed)?;
    println!("wrote {}", file.display());
    let commands = keeper.on(scope, &file);
    if wanted.no_start {
        println!("switch it on with: {}", lines(&commands));
        return Ok(());
    }
    run(&commands)?;
    if (keeper, scope) == (Keeper::Systemd, Scope::User) {
        println!("to run while nobody is logged in: loginctl enable-linger");
    }
    Ok(())
}

pub(super) fn uninstall(wanted: &Uninstall) -> Outcome {
    let keeper = keeper()?;
    let scope = scope(wanted.system);
    let service = service(wanted.data_dir.as_deref(), None, scope)?;
    let file = keeper.path(&service, &folders()?);
    if !file.is_file() {
        return Err(Failure::Failed(format!(
            "{} is not there: no service was installed{}",
            file.display(),
            match scope {
                Scope::User => " for you; --system names that of the machine",
                Scope::System => "",
            }
        )));
    }
    if !wanted.no_stop {
        // Whatever becomes of it, the file goes: a service without a file does not come back.
        if let Err(failure) = run(&keeper.off(scope, &file)) {
            eprintln!("warning: {failure}");
        }
    }
    std::fs::remove_file(&file).map_err(|e| Failure::Failed(format!("{}: {e}", file.display())))?;
    println!("removed {}", file.display());
    Ok(())
}

fn lines(commands: &[Vec<String>]) -> String {
    let lines: Vec<String> = commands.iter().map(|words| words.join(" ")).collect();
    lines.join(" && ")
}

fn run(commands: &[Vec<String>]) -> Outcome {
    for words in commands {
        let Some((program, arguments)) = words.split_first() else {
            continue;
        };
        let ended = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        let said = match ended {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        return Err(Failure::Failed(format!(
            "'{}' failed: {said}; the file stays, try again with: {}",
            words.join(" "),
            lines(commands)
        )));
    }
    Ok(())
}
