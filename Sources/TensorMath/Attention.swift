internal import CKernels

/// Keys and values of one layer, of all tokens so far: `[positions, heads · width]` each.
public struct KeyValues: Sendable {
  public private(set) var keys: [Float] = []
  public private(set) var values: [Float] = []
  /// Floats of one position.
  public let stride: Int

  public init(stride: Int) { self.stride = stride }

  /// Queries that one task takes.
  private static let tileRows = 32

  /// Positions held.
  public var count: Int { stride == 0 ? 0 : keys.count / stride }

  /// Adds positions. Traps if they do not fill rows.
  public mutating func append(keys newKeys: [Float], values newValues: [Float]) {
    precondition(newKeys.count == newValues.count && newKeys.count % max(1, stride) == 0, "no whole positions")
    keys += newKeys
    values += newValues
  }

  /// Keeps the first positions only. Traps if there are fewer.
  public mutating func cut(to positions: Int) {
    precondition((0...count).contains(positions), "no such positions")
    keys.removeLast(keys.count - positions * stride)
    values.removeLast(values.count - positions * stride)
  }

  /// softmax(scale · q·Kᵀ)·V for queries at the last positions, each of which sees itself and what comes before.
  ///
  /// - Parameter queries: `[tokens, heads · width]`; heads share the keys of `heads / (stride / width)` neighbours.
  /// - Parameter window: a query sees no more than this many positions, itself counted; nil for all.
  /// - Parameter seesAll: true if the keys are not the queries' own sequence, and each query sees all of them.
  /// Traps if the extents do not fit.
  public func attend(_ queries: Matrix<Float>, width: Int, scale: Float, window: Int?, seesAll: Bool = false) -> Matrix<
    Float
  > {
    let heads = queries.columns / width
    let sharing = heads / (stride / width)
    precondition(heads * width == queries.columns && sharing * (stride / width) == heads, "heads do not fit")
    precondition(seesAll || count >= queries.rows, "queries have no keys of their own")
    var result = Matrix<Float>(rows: queries.rows, columns: queries.columns)
    let (total, before) = (count, count - queries.rows)
    // Soundness: each task writes its own `width` floats of the result and its own scores; ranges were checked above.
    queries.values.withUnsafeBufferPointer { q in
      keys.withUnsafeBufferPointer { k in
        values.withUnsafeBufferPointer { v in
          result.values.withUnsafeMutableBufferPointer { out in
            guard let q = q.baseAddress, let k = k.baseAddress, let v = v.baseAddress, let out = out.baseAddress else {
              return
            }
            nonisolated(unsafe) let pointers = (q, k, v, out)
            let tiles = (queries.rows + Self.tileRows - 1) / Self.tileRows
            Parallel.forEach(tiles * heads) { task in
              let (q, k, v, out) = pointers
              let (first, head) = (task / heads * Self.tileRows, task % heads)
              let rows = min(Self.tileRows, queries.rows - first)
              let own = head / sharing * width
              let place = first * heads * width + head * width
              withUnsafeTemporaryAllocation(of: Float.self, capacity: rows * total) { scores in
                guard let scores = scores.baseAddress else { return }
                kernels_attend(
                  q + place, heads * width, rows, k + own, v + own, stride, width,
                  seesAll ? Int(bitPattern: UInt.max) : before + first, total, window ?? 0, scale, scores, out + place)
              }
            }
          }
        }
      }
    }
    return result
  }
}

/// Loops over the machine's cores, or as many threads as PEFT_THREADS says.
public enum Parallel {
  /// Threads that take part.
  public static var threads: Int { kernels_threads() }

  /// Ends the threads that wait for loops; the next loop starts them again. For a program that has computed what it wanted to.
  ///
  /// All models of a process share the threads, one loop at a time. Does nothing within a loop's body.
  public static func shutDown() { kernels_stop_threads() }

  /// Calls `body` for 0 to count - 1, in any order and at the same time.
  public static func forEach(_ count: Int, _ body: @Sendable (Int) -> Void) {
    withoutActuallyEscaping(body) { body in
      var closure = body
      // Soundness: the closure lives until the loop has ended.
      withUnsafeMutablePointer(to: &closure) { pointer in
        kernels_parallel(
          count,
          { context, index in
            context?.assumingMemoryBound(to: (@Sendable (Int) -> Void).self).pointee(index)
          }, pointer)
      }
    }
  }
}
