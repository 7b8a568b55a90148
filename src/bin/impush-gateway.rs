//! `impush-gateway`: the server half.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    impush::gateway::cli::main()
}
