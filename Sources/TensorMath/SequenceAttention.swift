internal import CKernels
internal import COpenBLAS

/// Causal attention within each of several sequences whose rows lie one after the other.
public struct SequenceAttention: Sendable {
  /// Queries' heads, and keys' and values' heads.
  public let heads: Int
  public let keyHeads: Int
  /// Features of a head.
  public let width: Int
  public let scale: Float
  /// Positions that a query sees at most, itself counted; nil for all before it.
  public let window: Int?

  /// Traps unless heads and width are positive and the keys' heads divide the queries'.
  public init(heads: Int, keyHeads: Int, width: Int, scale: Float, window: Int?) {
    precondition(heads > 0 && keyHeads > 0 && heads % keyHeads == 0 && width > 0, "heads do not fit")
    self.heads = heads
    self.keyHeads = keyHeads
    self.width = width
    self.scale = scale
    self.window = window
  }

  private static let tileRows = 32

  /// softmax(scale · q·Kᵀ)·V. `q` is `[rows, heads · width]`, `k` and `v` `[rows, keyHeads · width]`; `lengths` add up to the rows.
  ///
  /// - Parameter mask: what dropout keeps of the softmax.
  public func callAsFunction(
    _ q: LentMatrix, _ k: LentMatrix, _ v: LentMatrix, lengths: [Int], mask: AttentionMask? = nil,
    in workspace: Workspace
  ) -> LentMatrix {
    check(q, k, v, lengths)
    let result = workspace.matrix(q.rows, q.columns)
    nonisolated(unsafe) let pointers = (q: q.pointer, k: k.pointer, v: v.pointer, out: result.pointer)
    let tasks = tiles(lengths).flatMap { tile in (0..<heads).map { (tile: tile, head: $0) } }
    // Soundness: each task writes its own rows of its own head; extents were checked above.
    Parallel.forEach(tasks.count) { index in
      let (tile, head) = tasks[index]
      let own = tile.sequence * keyHeads * width + head / (heads / keyHeads) * width
      let place = (tile.sequence + tile.first) * heads * width + head * width
      withUnsafeTemporaryAllocation(of: Float.self, capacity: tile.rows * tile.length) { scores in
        guard let scores = scores.baseAddress else { return }
        if let mask {
          let (begin, seen) = span(tile)
          let keys = own + begin * keyHeads * width
          shares(tile, begin: begin, seen: seen, scores, pointers.q + place, pointers.k + keys)
          for row in 0..<tile.rows { drop(mask, tile, head, row, begin: begin, scores + row * seen) }
          cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(tile.rows), blasint(width), blasint(seen), 1, scores,
            blasint(seen), pointers.v + keys, blasint(keyHeads * width), 0, pointers.out + place,
            blasint(heads * width))
          return
        }
        kernels_attend(
          pointers.q + place, heads * width, tile.rows, pointers.k + own, pointers.v + own, keyHeads * width, width,
          tile.first, tile.length, window ?? 0, scale, scores, pointers.out + place)
      }
    }
    return result
  }

  /// The gradients of q, k and v; `g` is that of the result, `out` the result itself.
  ///
  /// Scores are computed anew, for a tile of queries at a time: no more than 32 × length of them exist for a thread. A key's gradient is
  /// summed over queries by one thread in their order.
  public func gradients(
    _ q: LentMatrix, _ k: LentMatrix, _ v: LentMatrix, _ g: LentMatrix, lengths: [Int], mask: AttentionMask? = nil,
    in workspace: Workspace
  ) -> (q: LentMatrix, k: LentMatrix, v: LentMatrix) {
    check(q, k, v, lengths)
    precondition(g.count == q.count, "extents differ")
    let result = (
      q: workspace.matrix(q.rows, q.columns), k: workspace.zeros(k.rows, k.columns),
      v: workspace.zeros(v.rows, v.columns)
    )
    nonisolated(unsafe) let from = (q: q.pointer, k: k.pointer, v: v.pointer, g: g.pointer)
    nonisolated(unsafe) let to = (q: result.q.pointer, k: result.k.pointer, v: result.v.pointer)
    var tilesOfSequence: [[Tile]] = []
    for tile in tiles(lengths) {
      if tile.first == 0 {
        tilesOfSequence.append([tile])
      } else {
        tilesOfSequence[tilesOfSequence.count - 1].append(tile)
      }
    }
    let tasks = tilesOfSequence.flatMap { tiles in (0..<keyHeads).map { (tiles: tiles, keyHead: $0) } }
    // Soundness: each task writes the gradients of one key head of one sequence, and of the queries that use it.
    Parallel.forEach(tasks.count) { index in
      let (tiles, keyHead) = tasks[index]
      let most = (tiles.map(\.rows).max() ?? 0) * (tiles.first?.length ?? 0)
      withUnsafeTemporaryAllocation(of: Float.self, capacity: 2 * most) { scratch in
        guard let shares = scratch.baseAddress else { return }
        for tile in tiles {
          for head in keyHead * (heads / keyHeads)..<(keyHead + 1) * (heads / keyHeads) {
            let own = tile.sequence * keyHeads * width + keyHead * width
            let place = (tile.sequence + tile.first) * heads * width + head * width
            let keys = own + span(tile).begin * keyHeads * width
            self.tile(
              tile, head, mask, shares, shares + most,
              (from.q + place, from.k + keys, from.v + keys, from.g + place), (to.q + place, to.k + keys, to.v + keys))
          }
        }
      }
    }
    return result
  }

  /// The first key that a tile's queries see, and how many they see from there on.
  private func span(_ tile: Tile) -> (begin: Int, seen: Int) {
    let begin = window.map { max(0, tile.first + 1 - $0) } ?? 0
    return (begin, tile.first + tile.rows - begin)
  }

  /// The keys that a query of a tile sees, counted from the tile's first.
  private func keys(_ tile: Tile, _ row: Int, begin: Int) -> Range<Int> {
    let last = tile.first + row + 1
    return (window.map { max(0, last - $0) } ?? 0) - begin..<last - begin
  }

  /// softmax(scale · q·Kᵀ) of a tile's queries; zero where a query does not see.
  private func shares(
    _ tile: Tile, begin: Int, seen: Int, _ p: UnsafeMutablePointer<Float>, _ q: UnsafeMutablePointer<Float>,
    _ k: UnsafeMutablePointer<Float>
  ) {
    let (keys, width) = (blasint(seen), blasint(self.width))
    cblas_sgemm(
      CblasRowMajor, CblasNoTrans, CblasTrans, blasint(tile.rows), keys, width, scale, q, blasint(heads * self.width),
      k,
      blasint(keyHeads * self.width), 0, p, keys)
    for row in 0..<tile.rows {
      let (line, own) = (p + row * seen, self.keys(tile, row, begin: begin))
      for index in 0..<own.lowerBound { line[index] = 0 }
      kernels_softmax(line + own.lowerBound, own.count)
      for index in own.upperBound..<seen { line[index] = 0 }
    }
  }

  /// Drops what a mask says of a query's shares, or of their gradients.
  private func drop(
    _ mask: AttentionMask, _ tile: Tile, _ head: Int, _ row: Int, begin: Int, _ line: UnsafeMutablePointer<Float>
  ) {
    let own = keys(tile, row, begin: begin)
    mask.drop(
      line + own.lowerBound, own.count, first: begin + own.lowerBound, sequence: tile.index, head: head,
      query: tile.first + row)
  }

  private func tile(
    _ tile: Tile, _ head: Int, _ mask: AttentionMask?, _ p: UnsafeMutablePointer<Float>,
    _ dp: UnsafeMutablePointer<Float>,
    _ from: (
      q: UnsafeMutablePointer<Float>, k: UnsafeMutablePointer<Float>, v: UnsafeMutablePointer<Float>,
      g: UnsafeMutablePointer<Float>
    ),
    _ to: (q: UnsafeMutablePointer<Float>, k: UnsafeMutablePointer<Float>, v: UnsafeMutablePointer<Float>)
  ) {
    let (begin, seen) = span(tile)
    let (rows, queryStride, keyStride) = (blasint(tile.rows), blasint(heads * width), blasint(keyHeads * width))
    let (keys, width) = (blasint(seen), blasint(self.width))
    shares(tile, begin: begin, seen: seen, p, from.q, from.k)
    cblas_sgemm(
      CblasRowMajor, CblasNoTrans, CblasTrans, rows, keys, width, 1, from.g, queryStride, from.v, keyStride, 0, dp, keys
    )
    for row in 0..<tile.rows {
      let own = self.keys(tile, row, begin: begin)
      let (line, slope) = (p + row * seen, dp + row * seen)
      if let mask { drop(mask, tile, head, row, begin: begin, slope) }
      for index in 0..<own.lowerBound { slope[index] = 0 }
      kernels_softmax_gradient(line + own.lowerBound, slope + own.lowerBound, scale, own.count)
      for index in own.upperBound..<seen { slope[index] = 0 }
      if let mask { drop(mask, tile, head, row, begin: begin, line) }
    }
    cblas_sgemm(
      CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, width, keys, 1, dp, keys, from.k, keyStride, 0, to.q, queryStride
    )
    cblas_sgemm(
      CblasRowMajor, CblasTrans, CblasNoTrans, keys, width, rows, 1, dp, keys, from.q, queryStride, 1, to.k, keyStride)
    cblas_sgemm(
      CblasRowMajor, CblasTrans, CblasNoTrans, keys, width, rows, 1, p, keys, from.g, queryStride, 1, to.v, keyStride)
  }

  /// Neighbouring queries of one sequence.
  private struct Tile {
    /// The sequence's number.
    let index: Int
    /// The sequence's first row, and its length.
    let sequence: Int
    let length: Int
    /// The first query, counted in the sequence.
    let first: Int
    let rows: Int
  }

  private func tiles(_ lengths: [Int]) -> [Tile] {
    var (tiles, start): ([Tile], Int) = ([], 0)
    for (index, length) in lengths.enumerated() {
      for first in stride(from: 0, to: length, by: Self.tileRows) {
        tiles.append(
          Tile(index: index, sequence: start, length: length, first: first, rows: min(Self.tileRows, length - first)))
      }
      start += length
    }
    return tiles
  }

  private func check(_ q: LentMatrix, _ k: LentMatrix, _ v: LentMatrix, _ lengths: [Int]) {
    precondition(
      q.columns == heads * width && k.columns == keyHeads * width && v.columns == k.columns, "heads do not fit")
    precondition(k.rows == q.rows && v.rows == q.rows && lengths.reduce(0, +) == q.rows, "rows do not fit")
  }
}
