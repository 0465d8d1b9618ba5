internal import CKernels
internal import Glibc
internal import Synchronization

/// Memory for the matrices of passes over a model. What is given back is lent again, so that many passes take no more than one.
///
/// Passes of other lengths want pieces of other sizes: what lies unused is then given back to the system, so that all passes together take
/// little more than the largest.
/// Sendable: the lists are guarded by a lock.
public final class Workspace: Sendable {
  private struct Piece: @unchecked Sendable {
    // Soundness: a piece is in the list or in one `LentMatrix`, never in two places.
    let pointer: UnsafeMutablePointer<Float>
  }

  /// Elements are counted. What is lent and what lies unused make up what is taken.
  private struct Pieces {
    var free: [Int: [Piece]] = [:]
    var lent = 0
    var mostLent = 0
    var taken = 0
    var mostTaken = 0

    /// Gives unused pieces back, those of the size that takes most first, while more is taken than lending needs and an eighth.
    mutating func trim() {
      while taken > mostLent + mostLent / 8 {
        let largest = free.max { ($0.key * $0.value.count, $0.key) < ($1.key * $1.value.count, $1.key) }
        guard let capacity = largest?.key, let piece = free[capacity]?.popLast() else { return }
        Workspace.giveBack(piece.pointer, capacity)
        taken -= capacity
      }
    }
  }

  private let pieces = Mutex(Pieces())

  public init() {}

  deinit {
    for (capacity, unused) in pieces.withLock({ $0.free }) {
      for piece in unused { Self.giveBack(piece.pointer, capacity) }
    }
  }

  /// The most bytes that the workspace had from the system at once.
  public var byteCount: Int { pieces.withLock { $0.mostTaken } * 4 }

  /// A matrix whose elements are yet to be written.
  public func matrix(_ rows: Int, _ columns: Int) -> LentMatrix {
    let capacity = Self.capacity(rows * columns)
    let piece = pieces.withLock { pieces in
      pieces.lent += capacity
      pieces.mostLent = max(pieces.mostLent, pieces.lent)
      if let found = pieces.free[capacity]?.popLast() { return found }
      pieces.taken += capacity
      pieces.trim()
      pieces.mostTaken = max(pieces.mostTaken, pieces.taken)
      return Piece(pointer: Self.take(capacity))
    }
    return LentMatrix(piece.pointer, rows, columns, capacity, self)
  }

  /// Elements from which a piece is mapped, so that giving it back leaves no hole in the heap.
  private static let mapped = 1 << 18

  private static func take(_ capacity: Int) -> UnsafeMutablePointer<Float> {
    guard capacity >= mapped else {
      let bytes = UnsafeMutableRawPointer.allocate(byteCount: capacity * 4, alignment: 64)
      return bytes.bindMemory(to: Float.self, capacity: capacity)
    }
    let bytes = mmap(nil, capacity * 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let bytes, bytes != MAP_FAILED else { fatalError("no memory for \(capacity * 4) bytes") }
    return bytes.bindMemory(to: Float.self, capacity: capacity)
  }

  private static func giveBack(_ pointer: UnsafeMutablePointer<Float>, _ capacity: Int) {
    if capacity >= mapped { munmap(pointer, capacity * 4) } else { pointer.deallocate() }
  }

  /// A matrix of zeros.
  public func zeros(_ rows: Int, _ columns: Int) -> LentMatrix {
    let matrix = matrix(rows, columns)
    matrix.clear()
    return matrix
  }

  /// Sizes in steps of an eighth of the power of two below, so that passes of nearly the same length share pieces.
  private static func capacity(_ count: Int) -> Int {
    guard count > 1024 else { return 1024 }
    let step = 1 << (Int.bitWidth - 1 - count.leadingZeroBitCount - 3)
    return (count + step - 1) / step * step
  }

  fileprivate func take(_ pointer: UnsafeMutablePointer<Float>, capacity: Int) {
    let piece = Piece(pointer: pointer)
    pieces.withLock {
      $0.lent -= capacity
      $0.free[capacity, default: []].append(piece)
    }
  }
}

/// A matrix of f32, row-major, in memory that a workspace lends, or a part of another one. A reference: copies share elements.
///
/// Not Sendable: one pass at a time writes to it. Kernels that share a loop among threads own disjoint rows or columns.
public final class LentMatrix {
  public let rows: Int
  public let columns: Int
  let pointer: UnsafeMutablePointer<Float>
  private let capacity: Int
  private let workspace: Workspace?
  /// What the memory belongs to, if it is part of another matrix.
  private let owner: LentMatrix?

  fileprivate init(
    _ pointer: UnsafeMutablePointer<Float>, _ rows: Int, _ columns: Int, _ capacity: Int, _ workspace: Workspace
  ) {
    self.pointer = pointer
    self.rows = rows
    self.columns = columns
    self.capacity = capacity
    self.workspace = workspace
    owner = nil
  }

  /// Elements `offset` on of another matrix, read as `[rows, columns]`. Traps if they lie outside.
  public init(_ matrix: LentMatrix, from offset: Int, rows: Int, columns: Int) {
    precondition(offset >= 0 && offset + rows * columns <= matrix.count, "the part lies outside")
    pointer = matrix.pointer + offset
    self.rows = rows
    self.columns = columns
    capacity = 0
    workspace = nil
    owner = matrix
  }

  deinit { workspace?.take(pointer, capacity: capacity) }

  /// Number of elements.
  public var count: Int { rows * columns }

  /// A copy of the elements.
  public var values: [Float] { Array(UnsafeBufferPointer(start: pointer, count: count)) }

  /// One element. Traps outside.
  public subscript(_ row: Int, _ column: Int) -> Float {
    get {
      precondition(row >= 0 && row < rows && column >= 0 && column < columns, "no such element")
      return pointer[row * columns + column]
    }
    set {
      precondition(row >= 0 && row < rows && column >= 0 && column < columns, "no such element")
      pointer[row * columns + column] = newValue
    }
  }

  /// Sets all elements to zero.
  public func clear() { pointer.update(repeating: 0, count: count) }

  /// Takes another matrix's elements. Traps if the counts differ.
  public func copy(_ other: LentMatrix) {
    precondition(other.count == count, "extents differ")
    pointer.update(from: other.pointer, count: count)
  }

  /// Takes elements from an array. Traps if the counts differ.
  public func copy(_ values: [Float]) {
    precondition(values.count == count, "extents differ")
    values.withUnsafeBufferPointer { if let base = $0.baseAddress { pointer.update(from: base, count: count) } }
  }

  /// self += scale · other. Traps if the counts differ.
  public func add(_ other: LentMatrix, scale: Float = 1) {
    precondition(other.count == count, "extents differ")
    nonisolated(unsafe) let (to, from) = (pointer, other.pointer)
    let count = count
    Parallel.forEachPiece(of: count, size: 1 << 14) { start, length in
      kernels_add(from + start, scale, to + start, length)
    }
  }

  /// Multiplies every element.
  public func scale(by factor: Float) {
    for index in 0..<count { pointer[index] *= factor }
  }

  /// The sum of the squares, in f64.
  public var squareSum: Double { kernels_square_sum(pointer, count) }
}

extension Parallel {
  /// Calls `body` with the start and length of pieces that fill `count`, in any order and at the same time.
  static func forEachPiece(of count: Int, size: Int, _ body: @Sendable (_ start: Int, _ length: Int) -> Void) {
    forEach((count + size - 1) / size) { index in body(index * size, min(size, count - index * size)) }
  }
}
