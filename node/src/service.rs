//! The node as a service of this system: which file, what stands in it, which commands switch it on and off.
//!
//! Pure but for [`folders`]: writing files and running commands is the command line's. Only systemd is tried by us; launchd
//! and the Windows task scheduler follow their documentation and stand here unverified.

use std::path::{Path, PathBuf};

/// What the three systems call it.
const SYSTEMD_NAME: &str = "hearth-node.service";
const LAUNCHD_LABEL: &str = "hearth.node";
const TASK_NAME: &str = "Hearth node";

/// Who keeps services running on a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// Linux.
    Systemd,
    /// macOS.
    Launchd,
    /// Windows: the task scheduler.
    Tasks,
}

/// For whom a service is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// For the logged-in user.
    User,
    /// For the machine, before anybody logs in; takes an administrator.
    System,
}

/// A service to write down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// The node's data directory, an absolute path.
    pub data_dir: PathBuf,
    /// The settings file, if there is one.
    pub config: Option<PathBuf>,
    /// For whom.
    pub scope: Scope,
    /// Who a service of the machine runs as; of no use to one of a user.
    pub user: Option<String>,
}

/// A service that cannot be written down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// A path cannot stand in a service file.
    #[error(
        "{0} cannot stand in a service file: a path of plain text without line breaks was expected; move it"
    )]
    Path(PathBuf),
    /// Nobody knows where services go.
    #[error("the user's home folder is not known; set HOME")]
    Home,
    /// There is no such keeper here.
    #[error("services are not known on this system; start `node join` by its own means")]
    System,
}

/// The keeper of this system.
///
/// # Errors
/// [`ServiceError::System`] where there is none that we know.
pub fn keeper() -> Result<Keeper, ServiceError> {
    match std::env::consts::OS {
        "linux" => Ok(Keeper::Systemd),
        "macos" => Ok(Keeper::Launchd),
        "windows" => Ok(Keeper::Tasks),
        _ => Err(ServiceError::System),
    }
}

/// The folders that a user's files go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// `~`.
    pub home: PathBuf,
    /// `~/.config`, or what stands for it.
    pub config: PathBuf,
}

/// The folders of the user who runs this.
///
/// # Errors
/// [`ServiceError::Home`].
pub fn folders() -> Result<Folders, ServiceError> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = var("HOME").or_else(|| var("USERPROFILE"));
    let home = PathBuf::from(home.ok_or(ServiceError::Home)?);
    let config = var("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    Ok(Folders { home, config })
}

impl Keeper {
    /// Where the file of a service goes.
    #[must_use]
    pub fn path(self, service: &Service, folders: &Folders) -> PathBuf {
        match (self, service.scope) {
            (Self::Systemd, Scope::User) => folders.config.join("systemd/user").join(SYSTEMD_NAME),
            (Self::Systemd, Scope::System) => Path::new("/etc/systemd/system").join(SYSTEMD_NAME),
            (Self::Launchd, scope) => {
                let folder = match scope {
                    Scope::User => folders.home.join("Library/LaunchAgents"),
                    Scope::System => PathBuf::from("/Library/LaunchDaemons"),
                };
                folder.join(format!("{LAUNCHD_LABEL}.plist"))
            }
            (Self::Tasks, _) => service.data_dir.join("hearth-node.xml"),
        }
    }

    /// What stands in the file.
    ///
    /// # Errors
    /// [`ServiceError::Path`].
    pub fn render(self, service: &Service) -> Result<String, ServiceError> {
        let words = service.words()?;
        Ok(match self {
            Self::Systemd => systemd(service, &words),
            Self::Launchd => launchd(service, &words),
            Self::Tasks => task(service, &words),
        })
    }

    /// The commands that switch it on, once its file is written.
    #[must_use]
    pub fn on(self, scope: Scope, file: &Path) -> Vec<Vec<String>> {
        let file = file.display().to_string();
        match (self, scope) {
            (Self::Systemd, Scope::User) => vec![
                list(&["systemctl", "--user", "daemon-reload"]),
                list(&["systemctl", "--user", "enable", "--now", SYSTEMD_NAME]),
            ],
            (Self::Systemd, Scope::System) => vec![
                list(&["systemctl", "daemon-reload"]),
                list(&["systemctl", "enable", "--now", SYSTEMD_NAME]),
            ],
            (Self::Launchd, _) => vec![list(&["launchctl", "load", "-w", &file])],
            (Self::Tasks, _) => vec![
                list(&["schtasks", "/Create", "/F", "/TN", TASK_NAME, "/XML", &file]),
                list(&["schtasks", "/Run", "/TN", TASK_NAME]),
            ],
        }
    }

    /// The commands that switch it off, while its file is still there.
    #[must_use]
    pub fn off(self, scope: Scope, file: &Path) -> Vec<Vec<String>> {
        let file = file.display().to_string();
        match (self, scope) {
            (Self::Systemd, Scope::User) => {
                vec![list(&[
                    "systemctl",
                    "--user",
                    "disable",
                    "--now",
                    SYSTEMD_NAME,
                ])]
            }
            (Self::Systemd, Scope::System) => {
                vec![list(&["systemctl", "disable", "--now", SYSTEMD_NAME])]
            }
            (Self::Launchd, _) => vec![list(&["launchctl", "unload", "-w", &file])],
            (Self::Tasks, _) => vec![
                list(&["schtasks", "/End", "/TN", TASK_NAME]),
                list(&["schtasks", "/Delete", "/F", "/TN", TASK_NAME]),
            ],
        }
    }
}

fn list(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

impl Service {
    /// The command line: the program first.
    fn words(&self) -> Result<Vec<String>, ServiceError> {
        let plain = |path: &Path| {
            let text = path
                .to_str()
                .filter(|text| !text.chars().any(char::is_control));
            let text = text.map(str::to_owned);
            text.ok_or_else(|| ServiceError::Path(path.to_owned()))
        };
        let mut words = vec![plain(&self.program)?];
        words.extend([
            "join".to_owned(),
            "--data-dir".to_owned(),
            plain(&self.data_dir)?,
        ]);
        if let Some(config) = &self.config {
            words.extend(["--config".to_owned(), plain(config)?]);
        }
        Ok(words)
    }

    fn machine_user(&self) -> Option<&str> {
        self.user
            .as_deref()
            .filter(|_| self.scope == Scope::System)
            .filter(|user| !user.chars().any(|c| c.is_control() || c.is_whitespace()))
    }
}

/// Without the line that explains the words between @ signs, and without lines that stayed empty in their place.
fn filled(template: &str, words: &[(&str, &str)]) -> String {
    let lines = template
        .lines()
        .filter(|line| !line.contains("between @ signs"));
    let mut text = String::new();
    for line in lines {
        let mut line = line.to_owned();
        for (name, value) in words {
            if line.trim() == *name && value.is_empty() {
                line.clear();
                break;
            }
            if line.contains(name) {
                line = line.replace(name, value);
                break;
            }
        }
        let blank_before = text.is_empty() || text.ends_with("\n\n");
        if !line.is_empty() || !blank_before {
            text += &line;
            text.push('\n');
        }
    }
    text
}

/// One word as systemd reads it: quoted, with its own signs doubled or escaped.
fn systemd_word(word: &str) -> String {
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' | '$' => text.extend([c, c]),
            _ => text.push(c),
        }
    }
    text.push('"');
    text
}

fn systemd(service: &Service, words: &[String]) -> String {
    let command: Vec<String> = words.iter().map(|word| systemd_word(word)).collect();
    let user = service.machine_user().map(|user| format!("User={user}"));
    let target = match service.scope {
        Scope::User => "default.target",
        Scope::System => "multi-user.target",
    };
    let text = filled(
        include_str!("../../deploy/systemd/hearth-node.service"),
        &[
            ("@COMMAND@", &command.join(" ")),
            ("@USER@", &user.unwrap_or_default()),
            ("@TARGET@", target),
        ],
    );
    // An empty line inside a section says nothing; only those between sections stay.
    text.replace("\n\n#", "\n#")
}

fn xml(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

fn launchd(service: &Service, words: &[String]) -> String {
    let arguments: Vec<String> = words
        .iter()
        .map(|word| format!("        <string>{}</string>", xml(word)))
        .collect();
    let user = service.machine_user().map(|user| {
        format!(
            "    <key>UserName</key>\n    <string>{}</string>",
            xml(user)
        )
    });
    let log = service.data_dir.join("node.log").display().to_string();
    filled(
        include_str!("../../deploy/launchd/hearth-node.plist"),
        &[
            ("@ARGUMENTS@", &arguments.join("\n")),
            ("@USER@", &user.unwrap_or_default()),
            ("@LOG@", &xml(&log)),
        ],
    )
}

/// One argument as Windows programs read their command line.
fn windows_word(word: &str) -> String {
    let plain = !word.is_empty() && !word.contains([' ', '\t', '"']);
    if plain {
        return word.to_owned();
    }
    // Backslashes count only before a quote, the closing one included.
    let mut text = String::from("\"");
    let mut slashes = 0;
    for c in word.chars() {
        match c {
            '\\' => slashes += 1,
            '"' => {
                text.extend(std::iter::repeat_n('\\', slashes * 2 + 1));
                slashes = 0;
                text.push(c);
                continue;
            }
            _ => {
                text.extend(std::iter::repeat_n('\\', slashes));
                slashes = 0;
                text.push(c);
            }
        }
    }
    text.extend(std::iter::repeat_n('\\', slashes * 2));
    text.push('"');
    text
}

fn task(service: &Service, words: &[String]) -> String {
    let (program, arguments) = words.split_first().map_or(("", &[][..]), |(p, a)| (p, a));
    let arguments: Vec<String> = arguments.iter().map(|word| windows_word(word)).collect();
    let trigger = match service.scope {
        Scope::User => "<LogonTrigger><Enabled>true</Enabled></LogonTrigger>",
        Scope::System => "<BootTrigger><Enabled>true</Enabled></BootTrigger>",
    };
    filled(
        include_str!("../../deploy/windows/hearth-node.xml"),
        &[
            ("@TRIGGER@", trigger),
            ("@PROGRAM@", &xml(program)),
            ("@ARGUMENTS@", &xml(&arguments.join(" "))),
        ],
    )
}

#[cfg(test)]
mod tests;
