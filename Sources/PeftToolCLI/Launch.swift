internal import Glibc
internal import Training

/// How this program was started: alone, or by mpirun with others.
enum Launch {
  /// Takes part with the others, if there are any. Throws `UsageError.withoutMPI` where this program cannot.
  static func ranks() throws(UsageError) -> any Ranks {
    let size = getenv("OMPI_COMM_WORLD_SIZE").flatMap { Int(String(cString: $0)) }
    #if MPI
      // Slurm's srun starts ranks by PMIx without mpirun.
      if size != nil || getenv("PMIX_RANK") != nil { return MPIRanks() }
    #else
      if let size, size > 1 { throw .withoutMPI(count: size) }
    #endif
    return OneRank()
  }
}

/// A failure of one of several ranks, after which none goes on.
struct SharedFailure: Error {
  let rank: Int
  let text: String
  /// What failed here, if it did.
  let own: (any Error)?
}

extension Ranks {
  /// Does what may fail on some ranks only: then it fails on all, and the first of them is named.
  func together<Value>(_ body: () throws -> Value) throws -> Value {
    guard !isAlone else { return try body() }
    return try settle(Result { try body() })
  }

  /// As the other.
  func awaitTogether<Value>(_ body: () async throws -> Value) async throws -> Value {
    guard !isAlone else { return try await body() }
    let result: Result<Value, any Error>
    do { result = .success(try await body()) } catch { result = .failure(error) }
    return try settle(result)
  }

  private func settle<Value>(_ result: Result<Value, any Error>) throws -> Value {
    var (own, text): ((any Error)?, String) = (nil, "")
    if case .failure(let error) = result {
      own = error
      text = error is CancellationError ? "interrupted." : ErrorText.text(error, of: nil)
    }
    let texts = gather(Array(text.utf8))
    guard let rank = texts.firstIndex(where: { !$0.isEmpty }) else { return try result.get() }
    throw SharedFailure(rank: rank, text: String(decoding: texts[rank], as: UTF8.self), own: own)
  }
}
