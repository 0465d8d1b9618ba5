internal import CKernels
internal import Synchronization

/// Memory for the matrices of passes over a model. What is given back is lent again, so that many passes take no more than one.
///
/// Sendable: the lists are guarded by a lock.
public final class Workspace: Sendable {
  private struct Piece: @unchecked Sendable {
    // Soundness: a piece is in the list or in one `LentMatrix`, never in two places.
    let pointer: UnsafeMutablePointer<Float>
  }

  private let free = Mutex<[Int: [Piece]]>([:])
  private let taken = Atomic<Int>(0)

  public init() {}

  deinit {
    for pieces in free.withLock({ $0 }).values { for piece in pieces { piece.pointer.deallocate() } }
  }

  /// Bytes that the workspace has taken from the system: the most that was ever lent at the same time.
  public var byteCount: Int { taken.load(ordering: .relaxed) * 4 }

  /// A matrix whose elements are yet to be written.
  public func matrix(_ rows: Int, _ columns: Int) -> LentMatrix {
    let capacity = Self.capacity(rows * columns)
    let found = free.withLock { lists in lists[capacity]?.popLast() }
    if let found { return LentMatrix(found.pointer, rows, columns, capacity, self) }
    taken.add(capacity, ordering: .relaxed)
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: capacity * 4, alignment: 64)
    return LentMatrix(bytes.bindMemory(to: Float.self, capacity: capacity), rows, columns, capacity, self)
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
    free.withLock { $0[capacity, default: []].append(piece) }
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
