internal import TensorMath

/// Does something for each of several modules, `workers` at once, and returns what it gave in their order.
///
/// BLAS calls stay on their threads meanwhile.
/// - Parameter state: what each worker begins with and takes from one of its modules to the next.
/// Throws the first error that a worker throws; no other module is begun then.
func inParallel<State: Sendable, Result: Sendable>(
  _ count: Int, workers: Int, state: State, _ work: @escaping @Sendable (Int, inout State) throws -> Result
) async throws -> [Result] {
  let blas = SingleThreadedBLAS()
  defer { blas.end() }
  let workers = max(1, min(workers, count))
  return try await withThrowingTaskGroup(of: [(Int, Result)].self) { group in
    for worker in 0..<workers {
      group.addTask {
        var state = state
        return try stride(from: worker, to: count, by: workers).map { index in
          try Task.checkCancellation()
          return (index, try work(index, &state))
        }
      }
    }
    var all: [(Int, Result)] = []
    for try await part in group { all += part }
    return all.sorted { $0.0 < $1.0 }.map(\.1)
  }
}
