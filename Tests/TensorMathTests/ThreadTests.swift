import COpenBLAS
import Synchronization
import TensorMath
import Testing

/// What the process shares: the threads of loops, and the threads inside BLAS.
@Suite(.serialized) struct ThreadTests {
  private func sum(to count: Int) -> Int {
    let total = Atomic(0)
    Parallel.forEach(count) { total.add($0, ordering: .relaxed) }
    return total.load(ordering: .relaxed)
  }

  @Test func loopsGoOnAfterTheThreadsWereShutDown() {
    let threads = Parallel.threads
    for _ in 0..<50 {
      #expect(sum(to: 1000) == 499_500)
      Parallel.shutDown()
    }
    #expect(sum(to: 1000) == 499_500 && Parallel.threads == threads)
  }

  @Test func loopsOfSeveralTasksAreEachDoneWholeWhileAnotherTaskShutsTheThreadsDown() async {
    await withTaskGroup(of: Int.self) { group in
      for _ in 0..<4 { group.addTask { (0..<200).reduce(0) { sum, _ in sum + self.sum(to: 64) } } }
      for _ in 0..<40 { Parallel.shutDown() }
      for await result in group { #expect(result == 200 * 2016) }
    }
  }

  @Test func overlappingStretchesOfSingleThreadedBLASRestoreWhatWasSetBefore() {
    let before = openblas_get_num_threads()
    let first = SingleThreadedBLAS()
    let second = SingleThreadedBLAS()
    first.end()
    first.end()
    #expect(openblas_get_num_threads() == 1)
    second.end()
    // Other suites have stretches of their own at the same time.
    #expect([1, before].contains(openblas_get_num_threads()))
  }
}
