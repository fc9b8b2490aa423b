//! The `ft` program; everything it does is in the library beside it.

fn main() -> std::process::ExitCode {
    ft_cli::run(std::env::args_os())
}
