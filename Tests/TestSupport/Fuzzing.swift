internal import Glibc

/// Inputs of a fuzz test: ten thousand, or as many as the environment variable FUZZ_ROUNDS says.
public var fuzzRounds: Int {
  getenv("FUZZ_ROUNDS").flatMap { Int(String(cString: $0)) } ?? 10_000
}
