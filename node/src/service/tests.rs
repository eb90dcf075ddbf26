//! Service files as they come out, and whether systemd takes them.

use super::*;

fn service(scope: Scope) -> Service {
    Service {
        program: PathBuf::from("/opt/my programs/100%/node"),
        data_dir: PathBuf::from("/var/lib/a&b"),
        config: Some(PathBuf::from("/etc/\"hearth\"/node.toml")),
        scope,
        user: Some("ada".to_owned()),
    }
}

#[test]
fn systemd_reads_every_word_as_it_is() {
    let text = Keeper::Systemd.render(&service(Scope::User)).unwrap();
    let command = r#"ExecStart="/opt/my programs/100%%/node" "join" "--data-dir" "/var/lib/a&b" "--config" "/etc/\"hearth\"/node.toml""#;
    assert!(text.lines().any(|line| line == command), "{text}");
    assert!(
        text.contains("WantedBy=default.target") && !text.contains("User="),
        "{text}"
    );
    let text = Keeper::Systemd.render(&service(Scope::System)).unwrap();
    assert!(
        text.contains("User=ada\n") && text.contains("WantedBy=multi-user.target"),
        "{text}"
    );
}

#[test]
fn nothing_between_signs_is_left() {
    for keeper in [Keeper::Systemd, Keeper::Launchd, Keeper::Tasks] {
        for scope in [Scope::User, Scope::System] {
            let text = keeper.render(&service(scope)).unwrap();
            assert!(!text.contains('@') && !text.contains("\n\n\n"), "{text}");
        }
    }
}

#[test]
fn xml_files_hold_the_words() {
    let text = Keeper::Launchd.render(&service(Scope::System)).unwrap();
    let words: Vec<&str> = text
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("<string>")?
                .strip_suffix("</string>")
        })
        .collect();
    assert_eq!(
        words,
        [
            "hearth.node",
            "/opt/my programs/100%/node",
            "join",
            "--data-dir",
            "/var/lib/a&amp;b",
            "--config",
            "/etc/&quot;hearth&quot;/node.toml",
            "ada",
            "/var/lib/a&amp;b/node.log",
        ]
    );
    let text = Keeper::Tasks.render(&service(Scope::User)).unwrap();
    assert!(
        text.contains("<Command>/opt/my programs/100%/node</Command>"),
        "{text}"
    );
    assert!(
        text.contains("LogonTrigger") && !text.contains("BootTrigger"),
        "{text}"
    );
}

#[test]
fn windows_words_are_quoted_where_they_must_be() {
    for (word, quoted) in [
        ("join", "join"),
        ("", "\"\""),
        (r"C:\a b\", r#""C:\a b\\""#),
        (r#"a\"b c"#, r#""a\\\"b c""#),
        (r"C:\plain\", r"C:\plain\"),
    ] {
        assert_eq!(windows_word(word), quoted);
    }
}

#[test]
fn a_path_with_a_line_break_is_refused() {
    let service = Service {
        data_dir: PathBuf::from("/tmp/a\nExecStart=evil"),
        ..service(Scope::User)
    };
    for keeper in [Keeper::Systemd, Keeper::Launchd, Keeper::Tasks] {
        assert!(matches!(
            keeper.render(&service),
            Err(ServiceError::Path(_))
        ));
    }
}

#[test]
fn a_users_file_lies_with_the_user() {
    let folders = Folders {
        home: PathBuf::from("/h"),
        config: PathBuf::from("/h/.config"),
    };
    let at = |keeper: Keeper, scope| keeper.path(&service(scope), &folders);
    assert_eq!(
        at(Keeper::Systemd, Scope::User),
        Path::new("/h/.config/systemd/user/hearth-node.service")
    );
    assert_eq!(
        at(Keeper::Systemd, Scope::System),
        Path::new("/etc/systemd/system/hearth-node.service")
    );
    assert_eq!(
        at(Keeper::Launchd, Scope::User),
        Path::new("/h/Library/LaunchAgents/hearth.node.plist")
    );
}

#[cfg(target_os = "linux")]
#[test]
fn systemd_verifies_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service {
        // A program that is there: systemd looks.
        program: std::env::current_exe().unwrap(),
        data_dir: dir.path().join("50% data"),
        config: None,
        scope: Scope::User,
        user: None,
    };
    let file = dir.path().join(SYSTEMD_NAME);
    std::fs::write(&file, Keeper::Systemd.render(&service).unwrap()).unwrap();
    let verify = std::process::Command::new("systemd-analyze")
        .args(["--user", "verify"])
        .arg(&file)
        .env("XDG_RUNTIME_DIR", dir.path())
        .output();
    match verify {
        Err(error) => eprintln!("skipped: systemd-analyze: {error}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            // Other units of this machine are not ours to judge.
            let ours: Vec<&str> = said
                .lines()
                .filter(|line| line.contains("hearth-node"))
                .collect();
            assert!(ours.is_empty(), "{ours:?}");
        }
    }
}
