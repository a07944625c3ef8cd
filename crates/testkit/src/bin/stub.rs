//! The stub model server as a program, for people and benchmarks.
//!
//! Example: `cargo run -p crewline-testkit --bin stub -- --port 9100 --latency-ms 50 --plan plan.json`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::{process::ExitCode, time::Duration};

use crewline_testkit::{Script, StubReply, StubServer};

const USAGE: &str = "\
An OpenAI-compatible model server that answers from a script.

Usage: stub [--port N] [--latency-ms N] [--plan FILE] [--text TEXT]

  --port N         the port on 127.0.0.1 (default 9100; 0 chooses a free one)
  --latency-ms N   wait before each answer (default 0)
  --plan FILE      the JSON that requests with a schema get (default: three tasks)
  --text TEXT      the text that other requests get (default: `Result of: <first line>`)

Example: stub --port 9100 --latency-ms 50 --plan plan.json
";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let (mut port, mut latency, mut plan, mut text) = (9100, 0, None, None);
    while let Some(name) = arguments.next() {
        if name == "--help" || name == "-h" {
            print!("{USAGE}");
            return Ok(());
        }
        let mut value = || arguments.next().ok_or_else(|| format!("`{name}` needs a value"));
        match name.as_str() {
            "--port" => port = number(&name, &value()?)?,
            "--latency-ms" => latency = number(&name, &value()?)?,
            "--plan" => plan = Some(value()?),
            "--text" => text = Some(value()?),
            _ => return Err(format!("there is no option `{name}`")),
        }
    }
    let mut script = Script::default();
    if let Some(file) = plan {
        let json = std::fs::read_to_string(&file).map_err(|error| format!("cannot read `{file}`: {error}"))?;
        // Sent as it is: broken plans are what one wants to try.
        script = script.on_schema(StubReply::text(json));
    }
    if let Some(text) = text {
        script = script.when(|request| !request.has_schema(), StubReply::text(text));
    }
    let script = script.latency(Duration::from_millis(latency)).counting_only();
    let server =
        StubServer::start_on(port, script).map_err(|error| format!("cannot listen on port {port}: {error}"))?;
    println!("{}", server.url());
    loop {
        std::thread::park();
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("`{value}` is not a number that `{name}` takes"))
}
