//! `impush`: the device agent and its operator's command line.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    impush::agent::cli::main()
}
