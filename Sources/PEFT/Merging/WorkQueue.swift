internal import Synchronization

/// The pieces of all files of a plan, handed out to tasks in the order of each file.
final class WorkQueue<Target: Sendable, Piece: Sendable>: Sendable {
  /// A file, and the pieces that are still to be done.
  final class Job: Sendable {
    let target: Target
    let pieces: [Piece]
    private let next = Atomic<Int>(0)
    private let isTaken = Atomic<Bool>(false)

    init(target: Target, pieces: [Piece]) {
      self.target = target
      self.pieces = pieces
    }

    /// True for the first caller only.
    func take() -> Bool { !isTaken.exchange(true, ordering: .relaxed) }

    var hasPieces: Bool { next.load(ordering: .relaxed) < pieces.count }

    /// The next piece nobody does yet.
    func takePiece() -> Piece? {
      let index = next.wrappingAdd(1, ordering: .relaxed).oldValue
      return index < pieces.count ? pieces[index] : nil
    }
  }

  private let jobs: [Job]
  private let done = Atomic<Int>(0)

  /// The largest file comes first.
  init(_ jobs: [Job]) { self.jobs = jobs.sorted { $0.pieces.count > $1.pieces.count } }

  /// A file of the caller's own while there is one, because writers to one file wait for each other; then any file with
  /// pieces left.
  func nextJob() -> Job? { jobs.first { $0.take() } ?? jobs.first(where: \.hasPieces) }

  /// Counts bytes; returns the sum.
  func add(_ byteCount: Int) -> Int { done.wrappingAdd(byteCount, ordering: .relaxed).newValue }
}
