//! See `ft_bench::step`.

fn main() -> std::process::ExitCode {
    ft_bench::step::main()
}
