internal import CKernels

/// Which shares of attention dropout keeps, for all heads of a padded batch: a bit for each.
///
/// Source: torch `_scaled_dot_product_attention_math`, which the CPU takes where it drops, and transformers `eager_attention_forward`: both
/// draw for `[rows, heads, queries, keys]`, what no query sees and padding included.
public struct AttentionMask: Sendable {
  /// Where a sequence lies in a padded batch.
  public struct Place: Sendable, Equatable {
    /// Its row.
    public let row: Int
    /// Positions of the row that are not the sequence's between what stands before it and its first token.
    public let gap: Int

    public init(row: Int, gap: Int) {
      self.row = row
      self.gap = gap
    }
  }

  private let bits: [UInt64]
  private let scale: Float
  private let places: [Place]
  private let heads: Int
  private let queries: Int
  private let keys: Int
  /// Positions that stand before each sequence's tokens.
  private let before: Int

  /// Draws a mask.
  ///
  /// - Parameters:
  ///   - places: those of the sequences, row by row.
  ///   - queries: positions of a row that ask.
  ///   - keys: positions of a row that are seen; those over `queries` come first, and ask nothing.
  ///   - before: positions that stand before each sequence's tokens, whatever gap follows.
  public init(
    probability: Double, places: [Place], heads: Int, queries: Int, keys: Int, before: Int,
    from generator: inout TorchGenerator
  ) {
    let rows = (places.last?.row ?? -1) + 1
    bits = DropoutMask.bits(probability, rows: [Bool](repeating: true, count: rows), heads * queries * keys, &generator)
    scale = Float(1 / (1 - probability))
    self.places = places
    self.heads = heads
    self.queries = queries
    self.keys = keys
    self.before = before
  }

  /// Drops some of the shares that a query of a sequence gives to the keys from `first` on, and scales the others.
  ///
  /// `query` and `first` are counted in the sequence, with what stands before it.
  func drop(
    _ shares: UnsafeMutablePointer<Float>, _ count: Int, first: Int, sequence: Int, head: Int, query: Int
  ) {
    let place = places[sequence]
    let row = (query < before ? query : query + place.gap) - (keys - queries)
    guard row >= 0 else { return }
    let start = ((place.row * heads + head) * queries + row) * keys
    let split = min(max(before - first, 0), count)
    precondition(row < queries && first + count + place.gap <= keys, "the mask does not fit")
    kernels_keep(shares, bits, start + first, scale, shares, split)
    kernels_keep(shares + split, bits, start + first + split + place.gap, scale, shares + split, count - split)
  }
}
