//! Looks at the clock, the power supply and the time since somebody touched the machine.
//!
//! Decides nothing. What cannot be told is given as unknown, with the reason. Only Linux is tried by us; what is asked on
//! macOS and Windows follows their documentation and stands here unverified.

use std::time::Duration;

use super::duty::{Idle, Power, Situation, Terms, WhileUsed};

/// How long a program of the system may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What is the case. Asks only for what the terms depend on, but for the power, which costs nothing to look at.
pub async fn look(terms: &Terms) -> Situation {
    let idle = match terms.while_used {
        WhileUsed::Yes => Idle::NotAsked,
        WhileUsed::After(_) => system::idle().await.map_or_else(Idle::Unknown, Idle::For),
    };
    Situation {
        minute: minute(),
        power: system::power().await.unwrap_or_else(Power::Unknown),
        idle,
    }
}

/// The minute of the day by the local clock.
fn minute() -> u16 {
    let now = jiff::Zoned::now();
    let part = |value: i8| u16::try_from(value).unwrap_or(0);
    part(now.hour()) * 60 + part(now.minute())
}

/// What a program of the system says on its standard output.
#[cfg(any(target_os = "linux", target_os = "macos", windows))]
async fn said(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(ANSWER_MAX, command.output()).await;
    let output = ended
        .map_err(|_| format!("{program} did not answer"))?
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().next().unwrap_or("it failed");
    Err(format!(
        "{program}: {}",
        line.chars().take(120).collect::<String>()
    ))
}

#[cfg(target_os = "linux")]
mod system {
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::super::duty::Power;
    use super::{linux_idle, linux_power, linux_supplies, said};

    pub(super) async fn power() -> Result<Power, String> {
        linux_power(&linux_supplies(Path::new("/sys/class/power_supply"))?)
    }

    pub(super) async fn idle() -> Result<Duration, String> {
        const LOGIND: &str = "org.freedesktop.login1";
        let object = "/org/freedesktop/login1";
        let interface = "org.freedesktop.login1.Manager";
        let words = [
            "--system",
            "get-property",
            LOGIND,
            object,
            interface,
            "IdleHint",
            "IdleSinceHint",
        ];
        linux_idle(&said("busctl", &words).await?, SystemTime::now())
    }
}

#[cfg(target_os = "macos")]
mod system {
    use std::time::Duration;

    use super::super::duty::Power;
    use super::{macos_idle, macos_power, said};

    pub(super) async fn power() -> Result<Power, String> {
        macos_power(&said("pmset", &["-g", "batt"]).await?)
    }

    pub(super) async fn idle() -> Result<Duration, String> {
        macos_idle(&said("ioreg", &["-c", "IOHIDSystem", "-d", "4"]).await?)
    }
}

#[cfg(windows)]
mod system {
    use std::time::Duration;

    use super::super::duty::Power;
    use super::{said, windows_idle, windows_power};

    async fn shell(script: &str) -> Result<String, String> {
        said(
            "powershell",
            &["-NoProfile", "-NonInteractive", "-Command", script],
        )
        .await
    }

    pub(super) async fn power() -> Result<Power, String> {
        let script = "Add-Type -AssemblyName System.Windows.Forms; \
                      $p = [System.Windows.Forms.SystemInformation]::PowerStatus; \
                      \"$($p.PowerLineStatus) $($p.BatteryChargeStatus)\"";
        windows_power(&shell(script).await?)
    }

    pub(super) async fn idle() -> Result<Duration, String> {
        let script = "Add-Type 'using System; using System.Runtime.InteropServices; public static class Touch { \
                      [StructLayout(LayoutKind.Sequential)] struct I { public uint Size; public uint Time; } \
                      [DllImport(\"user32.dll\")] static extern bool GetLastInputInfo(ref I i); \
                      public static uint Idle() { var i = new I(); i.Size = 8; \
                      if (!GetLastInputInfo(ref i)) throw new Exception(\"no input is known\"); \
                      return (uint)Environment.TickCount - i.Time; } }'; [Touch]::Idle()";
        windows_idle(&shell(script).await?)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
mod system {
    use std::time::Duration;

    use super::super::duty::Power;

    pub(super) async fn power() -> Result<Power, String> {
        Err("this system is not known".to_owned())
    }

    pub(super) async fn idle() -> Result<Duration, String> {
        Err("this system is not known".to_owned())
    }
}

/// One entry of `/sys/class/power_supply`.
#[cfg(any(target_os = "linux", test))]
#[derive(Debug, Clone, Default)]
struct Supply {
    /// `Battery`, `Mains`, `USB`, …
    kind: String,
    /// `Device` for the battery of a mouse.
    scope: String,
    /// `Discharging`, `Charging`, `Full`, `Not charging`, `Unknown`.
    status: String,
    /// 1 where something is plugged in.
    online: String,
}

#[cfg(any(target_os = "linux", test))]
fn linux_supplies(folder: &std::path::Path) -> Result<Vec<Supply>, String> {
    let entries =
        std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let supply = |entry: std::fs::DirEntry| {
        let field = |name: &str| {
            let text = std::fs::read_to_string(entry.path().join(name));
            text.map_or_else(|_| String::new(), |text| text.trim().to_owned())
        };
        Supply {
            kind: field("type"),
            scope: field("scope"),
            status: field("status"),
            online: field("online"),
        }
    };
    Ok(entries.flatten().map(supply).collect())
}

#[cfg(any(target_os = "linux", test))]
fn linux_power(supplies: &[Supply]) -> Result<Power, String> {
    let own = |kind: &'static str| {
        supplies
            .iter()
            .filter(move |supply| supply.kind == kind && supply.scope != "Device")
    };
    if own("Battery").next().is_none() {
        return Ok(Power::NoBattery);
    }
    if own("Mains")
        .chain(own("USB"))
        .any(|supply| supply.online == "1")
    {
        return Ok(Power::Mains);
    }
    let states: Vec<&str> = own("Battery")
        .map(|supply| supply.status.as_str())
        .collect();
    if states.contains(&"Discharging") {
        return Ok(Power::Battery);
    }
    if states
        .iter()
        .any(|state| matches!(*state, "Charging" | "Full" | "Not charging"))
    {
        return Ok(Power::Mains);
    }
    Err(format!("its battery says '{}'", states.join(", ")))
}

/// Two lines such as `b true` and `t 1700000000000000`, microseconds since 1970.
#[cfg(any(target_os = "linux", test))]
fn linux_idle(said: &str, now: std::time::SystemTime) -> Result<Duration, String> {
    let mut lines = said.lines().map(str::trim);
    match (lines.next(), lines.next()) {
        (Some("b false"), _) => Ok(Duration::ZERO),
        (Some("b true"), Some(since)) => {
            let since = since.strip_prefix("t ").and_then(|us| us.parse().ok());
            let since = since.map(|us| std::time::UNIX_EPOCH + Duration::from_micros(us));
            // A clock that was set back makes it zero: somebody is there until the clocks agree.
            let idle = since.map(|since| now.duration_since(since).unwrap_or_default());
            idle.ok_or_else(|| "logind gave no time".to_owned())
        }
        _ => Err("logind gave an answer that is not understood".to_owned()),
    }
}

/// The first line is `Now drawing from 'AC Power'` or `'Battery Power'`; batteries follow as ` -InternalBattery-0 …`.
#[cfg(any(target_os = "macos", test))]
fn macos_power(said: &str) -> Result<Power, String> {
    let first = said.lines().next().unwrap_or_default();
    if !said.contains("InternalBattery") {
        return Ok(Power::NoBattery);
    }
    match first {
        line if line.contains("'AC Power'") => Ok(Power::Mains),
        line if line.contains("'Battery Power'") => Ok(Power::Battery),
        line => Err(format!(
            "pmset said '{}'",
            line.chars().take(80).collect::<String>()
        )),
    }
}

/// A line `"HIDIdleTime" = N`, nanoseconds.
#[cfg(any(target_os = "macos", test))]
fn macos_idle(said: &str) -> Result<Duration, String> {
    let line = said.lines().find(|line| line.contains("\"HIDIdleTime\""));
    let number = line.and_then(|line| line.rsplit_once('=')?.1.trim().parse().ok());
    let idle = number.map(Duration::from_nanos);
    idle.ok_or_else(|| "ioreg names no HIDIdleTime".to_owned())
}

/// `Online`, `Offline` or `Unknown`, then the state of the battery's charge, `NoSystemBattery` without one.
#[cfg(any(windows, test))]
fn windows_power(said: &str) -> Result<Power, String> {
    match said.trim().split_once(' ') {
        Some((_, "NoSystemBattery")) => Ok(Power::NoBattery),
        Some(("Online", _)) => Ok(Power::Mains),
        Some(("Offline", _)) => Ok(Power::Battery),
        _ => Err(format!(
            "Windows said '{}'",
            said.trim().chars().take(80).collect::<String>()
        )),
    }
}

/// Milliseconds since the last input of this session.
#[cfg(any(windows, test))]
fn windows_idle(said: &str) -> Result<Duration, String> {
    let number = said.trim().parse().map(Duration::from_millis);
    number.map_err(|_| "Windows gave no number of milliseconds".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    fn supplies(list: &[(&str, &str, &str, &str)]) -> Vec<Supply> {
        let folder = tempfile::tempdir().unwrap();
        for (at, (kind, scope, status, online)) in list.iter().enumerate() {
            let entry = folder.path().join(format!("supply{at}"));
            std::fs::create_dir(&entry).unwrap();
            for (name, text) in [
                ("type", kind),
                ("scope", scope),
                ("status", status),
                ("online", online),
            ] {
                if !text.is_empty() {
                    std::fs::write(entry.join(name), format!("{text}\n")).unwrap();
                }
            }
        }
        linux_supplies(folder.path()).unwrap()
    }

    #[test]
    fn linux_tells_mains_from_battery() {
        let mouse = ("Battery", "Device", "Discharging", "");
        let (low, full, odd) = (
            ("Battery", "", "Discharging", ""),
            ("Battery", "System", "Full", ""),
            ("Battery", "", "Unknown", ""),
        );
        let (plugged, unplugged) = (("Mains", "", "", "1"), ("Mains", "", "", "0"));
        assert_eq!(linux_power(&supplies(&[])), Ok(Power::NoBattery));
        assert_eq!(
            linux_power(&supplies(&[mouse, unplugged])),
            Ok(Power::NoBattery)
        );
        assert_eq!(
            linux_power(&supplies(&[low, unplugged])),
            Ok(Power::Battery)
        );
        assert_eq!(linux_power(&supplies(&[low, plugged])), Ok(Power::Mains));
        assert_eq!(linux_power(&supplies(&[full])), Ok(Power::Mains));
        assert_eq!(linux_power(&supplies(&[full, low])), Ok(Power::Battery));
        assert!(
            linux_power(&supplies(&[odd]))
                .unwrap_err()
                .contains("Unknown")
        );
        assert!(
            linux_supplies(std::path::Path::new("no/such/folder"))
                .unwrap_err()
                .contains("no/such")
        );
    }

    #[test]
    fn linux_tells_how_long_nobody_was_there() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(linux_idle("b false\nt 5\n", now), Ok(Duration::ZERO));
        assert_eq!(
            linux_idle("b true\nt 940000000\n", now),
            Ok(Duration::from_secs(60))
        );
        // Nobody has ever logged in.
        assert_eq!(
            linux_idle("b true\nt 0\n", now),
            Ok(Duration::from_secs(1000))
        );
        assert_eq!(
            linux_idle("b true\nt 2000000000\n", now),
            Ok(Duration::ZERO)
        );
        for odd in ["", "b true", "b true\ns x", "maybe"] {
            assert!(
                linux_idle(odd, SystemTime::now())
                    .unwrap_err()
                    .contains("logind"),
                "{odd}"
            );
        }
    }

    #[test]
    fn other_systems_answers_are_read_as_documented() {
        let mac =
            "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t80%; discharging;\n";
        assert_eq!(macos_power(mac), Ok(Power::Battery));
        assert_eq!(
            macos_power(&mac.replace("Battery Power", "AC Power")),
            Ok(Power::Mains)
        );
        assert_eq!(
            macos_power("Now drawing from 'AC Power'\n"),
            Ok(Power::NoBattery)
        );
        assert!(macos_power("InternalBattery").is_err());
        let idle = "  | |   \"HIDIdleTime\" = 61000000000\n";
        assert_eq!(macos_idle(idle), Ok(Duration::from_secs(61)));
        assert!(macos_idle("").is_err());
        assert_eq!(windows_power("Offline High\r\n"), Ok(Power::Battery));
        assert_eq!(
            windows_power("Online NoSystemBattery\r\n"),
            Ok(Power::NoBattery)
        );
        assert!(windows_power("Unknown 255").is_err());
        assert_eq!(windows_idle("1500\r\n"), Ok(Duration::from_millis(1500)));
        assert!(windows_idle("-").is_err());
    }

    #[tokio::test]
    async fn this_machine_can_be_looked_at() {
        let now = look(&Terms::default()).await;
        assert!(now.minute < 1440 && now.idle == Idle::NotAsked, "{now:?}");
        let asked = Terms {
            while_used: WhileUsed::After(60),
            ..Terms::default()
        };
        assert_ne!(look(&asked).await.idle, Idle::NotAsked);
    }
}
