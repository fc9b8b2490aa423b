//! See `ft_bench::logits`.

fn main() -> std::process::ExitCode {
    ft_bench::logits::main()
}
