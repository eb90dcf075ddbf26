//! `lan`: an emulated LAN by hand.
#![allow(
    clippy::expect_used,
    reason = "a tool of those who measure; what fails is said and ends it"
)]

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("error: an emulated LAN takes the network namespaces of Linux");
    std::process::ExitCode::FAILURE
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{Read, Write};
    use std::net::SocketAddr;
    use std::process::ExitCode;
    use std::time::Duration;

    use clap::{Args, Parser, Subcommand};
    use serde_json::{Value, json};
    use tests::lan::relay::{Lateness, Report};
    use tests::lan::{Link, Rig, UdpRelay, measure};

    #[derive(Debug, Parser)]
    #[command(
        name = "lan",
        about = "An emulated LAN of network namespaces on this machine",
        after_help = "Links: gigabit, 2.5gbe, good-wifi, bad-wifi; each with values of your own, such as \
                      good-wifi,rtt-us=5000,jitter-us=2000,loss-ppm=500,mbit=100,queue-kib=64\n\n\
                      Without root: unshare --user --map-root-user --net lan ..."
    )]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Debug, Subcommand)]
    enum Command {
        /// Start machines, say how to run programs on them, and keep them until standard input ends
        #[command(after_help = "Example:\n  lan up --machines 3 --link gigabit")]
        Up(Machines),
        /// Measure what the link between two machines gives
        #[command(after_help = "Example:\n  lan measure --link bad-wifi --json")]
        Measure(Measure),
        /// Carry datagrams between two sockets on loopback, until standard input ends; needs no root
        #[command(
            after_help = "Example:\n  lan udp --listen 127.0.0.1:7000 --to 127.0.0.1:7411 --link good-wifi"
        )]
        Udp(Udp),
    }

    #[derive(Debug, Args)]
    struct Machines {
        /// How many
        #[arg(long, default_value_t = 2)]
        machines: usize,
        /// The link of each, or one for all; may be repeated
        #[arg(long, default_value = "gigabit")]
        link: Vec<Link>,
        /// Decides which frames are lost and how late each is
        #[arg(long, default_value_t = 1)]
        seed: u64,
    }

    #[derive(Debug, Args)]
    struct Measure {
        /// The link of both machines
        #[arg(long, default_value = "gigabit")]
        link: Link,
        /// Round trips
        #[arg(long, default_value_t = 1000)]
        pings: u32,
        /// Milliseconds of full datagrams
        #[arg(long, default_value_t = 1000)]
        flood_ms: u64,
        /// Decides which frames are lost and how late each is
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print one JSON value
        #[arg(long)]
        json: bool,
    }

    #[derive(Debug, Args)]
    struct Udp {
        /// Where the client sends to
        #[arg(long)]
        listen: SocketAddr,
        /// Where the server listens
        #[arg(long)]
        to: SocketAddr,
        /// The link between them
        #[arg(long, default_value = "gigabit")]
        link: Link,
        /// Decides which datagrams are lost and how late each is
        #[arg(long, default_value_t = 1)]
        seed: u64,
    }

    pub(super) fn main() -> ExitCode {
        let done = match Cli::parse().command {
            Command::Up(machines) => up(&machines),
            Command::Measure(wanted) => measured(&wanted),
            Command::Udp(udp) => carry(&udp),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }

    type Done = Result<(), Box<dyn std::error::Error>>;

    fn up(wanted: &Machines) -> Done {
        let one = wanted.link.first().copied().unwrap_or(Link::GIGABIT);
        let links = match wanted.link.len() {
            0 | 1 => vec![one; wanted.machines],
            _ => wanted.link.clone(),
        };
        let rig = Rig::new(&links, wanted.seed)?;
        for machine in 0..rig.machines() {
            let command = rig.command(machine, std::path::Path::new("PROGRAM"));
            let words: Vec<_> = command
                .get_args()
                .map(|word| word.to_string_lossy())
                .collect();
            println!("{:12} nsenter {}", rig.address(machine), words.join(" "));
        }
        println!("end standard input (Ctrl-D) to remove them");
        wait_for_end()?;
        print!("{}", lines(&rig.report()));
        Ok(())
    }

    fn measured(wanted: &Measure) -> Done {
        let rig = Rig::new(&[wanted.link; 2], wanted.seed)?;
        let figures = measure::measure(
            &rig,
            &wanted.link,
            wanted.pings,
            Duration::from_millis(wanted.flood_ms),
        );
        let report = rig.report();
        let us = |part| figures.rtt(part).map(|rtt| rtt.as_secs_f64() * 1e6);
        if wanted.json {
            let value: Value = json!({
                "rtt_us": {"least": us(0.0), "p50": us(0.5), "p99": us(0.99), "most": us(1.0)},
                "asked": figures.asked, "unanswered": figures.unanswered,
                "payload_bits_per_s": figures.bits_per_s,
                "late_frames": report.lateness.frames, "late_ends_us": Lateness::ENDS_US,
                "late_worst_us": report.lateness.worst.as_secs_f64() * 1e6,
            });
            println!("{value}");
            return Ok(());
        }
        for (name, part) in [("least", 0.0), ("p50", 0.5), ("p99", 0.99), ("most", 1.0)] {
            println!(
                "round trip {name:6} {:10.1} us",
                us(part).unwrap_or(f64::NAN)
            );
        }
        println!(
            "unanswered        {:10} of {}",
            figures.unanswered, figures.asked
        );
        println!("payload           {:10.1} Mbit/s", figures.bits_per_s / 1e6);
        print!("{}", lines(&report));
        Ok(())
    }

    fn carry(wanted: &Udp) -> Done {
        let relay = UdpRelay::start(wanted.listen, wanted.to, wanted.link, wanted.seed)?;
        println!("{} leads to {}", relay.address(), wanted.to);
        println!("end standard input (Ctrl-D) to stop");
        wait_for_end()?;
        print!("{}", lines(&relay.report()));
        Ok(())
    }

    fn wait_for_end() -> std::io::Result<()> {
        std::io::stdout().flush()?;
        let mut input = std::io::stdin().lock();
        let mut bytes = [0; 256];
        while input.read(&mut bytes)? > 0 {}
        Ok(())
    }

    fn lines(report: &Report) -> String {
        let mut text = String::new();
        for (port, counts) in report.counts.iter().enumerate() {
            text += &format!(
                "port {port}: sent {}, received {}, lost {}, dropped {}\n",
                counts.sent, counts.received, counts.lost, counts.dropped
            );
        }
        let late = &report.lateness;
        let ends = Lateness::ENDS_US.iter().map(|end| format!("< {end} us"));
        let ends = ends.chain(["more".to_owned()]);
        for (end, frames) in ends.zip(late.frames) {
            text += &format!("late {end:10} {frames}\n");
        }
        text + &format!("late at worst   {:?}\n", late.worst)
    }
}
