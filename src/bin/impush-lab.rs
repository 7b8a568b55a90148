//! `impush-lab`: clouds, phones and bad networks on one machine.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    impush::lab::cli::main()
}
