internal import LanguageModels
internal import TensorMath

/// Sequences that are trained on together, and how a padded batch would have held them.
public struct TokenBatch: Sendable, Equatable {
  /// Tokens of each sequence, without padding.
  public let sequences: [[Int]]
  /// For each token what is to be predicted there; -100 where nothing is. Not shifted.
  public let labels: [[Int]]
  /// Tokens of each row of the padded batch: of a sequence, or of several one after the other.
  private let rowLengths: [Int]
  /// Tokens that a row of the padded batch has room for.
  public let paddedLength: Int
  /// True if padding would stand before the tokens.
  public let padsLeft: Bool

  /// Traps unless labels and tokens are as many, and no sequence is empty or longer than the padded length.
  public init(sequences: [[Int]], labels: [[Int]], paddedLength: Int? = nil, padsLeft: Bool = false) {
    precondition(
      sequences.count == labels.count && zip(sequences, labels).allSatisfy { $0.count == $1.count && !$0.isEmpty },
      "labels do not fit the tokens")
    let longest = sequences.map(\.count).max() ?? 0
    precondition((paddedLength ?? longest) >= longest, "a sequence is longer than the batch")
    self.sequences = sequences
    self.labels = labels
    rowLengths = sequences.map(\.count)
    self.paddedLength = paddedLength ?? longest
    self.padsLeft = padsLeft
  }

  /// A row for each record; what is packed into one record stays apart from the rest of it.
  init(_ records: [TrainingRecord], padsLeft: Bool) {
    var (sequences, labels): ([[Int]], [[Int]]) = ([], [])
    for record in records {
      var start = 0
      for length in record.lengths {
        sequences.append(Array(record.tokens[start..<start + length]))
        labels.append(Array(record.labels[start..<start + length]))
        start += length
      }
    }
    self.sequences = sequences
    self.labels = labels
    rowLengths = records.map(\.tokens.count)
    paddedLength = rowLengths.max() ?? 0
    self.padsLeft = padsLeft
  }

  /// What is predicted at each token: the next token's label, -100 at the end.
  var targets: [Int] { labels.flatMap { $0.dropFirst() + [-100] } }

  /// What is predicted at each row if `count` rows stand before each sequence: the last of them predicts the first token.
  func targets(after count: Int) -> [Int] {
    guard count > 0 else { return targets }
    return labels.flatMap { [Int](repeating: -100, count: count - 1) + $0 + [-100] }
  }

  /// Tokens whose next one is labelled. Source: transformers `Trainer._get_num_items_in_batch`.
  public var labelledCount: Int { labels.reduce(0) { $0 + $1.dropFirst().count { $0 != -100 } } }

  var lengths: [Int] { sequences.map(\.count) }
  /// Tokens of the padded batch.
  var paddedCount: Int { rowLengths.count * paddedLength }
  /// Rows of the padded batch.
  var rowCount: Int { rowLengths.count }
  var tokenCount: Int { sequences.reduce(0) { $0 + $1.count } }

  /// Where each sequence lies in the padded batch.
  var places: [AttentionMask.Place] {
    var (places, row, start) = ([AttentionMask.Place](), 0, 0)
    for sequence in sequences {
      let padding = padsLeft ? paddedLength - rowLengths[row] : 0
      places.append(.init(row: row, gap: padding + start))
      start += sequence.count
      if start == rowLengths[row] { (row, start) = (row + 1, 0) }
    }
    return places
  }

  /// For each row of the padded batch whether it holds a token, or one of `count` rows that stand before each sequence.
  func heldRows(after count: Int) -> [Bool] {
    rowLengths.flatMap { length -> [Bool] in
      let before = [Bool](repeating: true, count: count)
      let held = [Bool](repeating: true, count: length)
      let padding = [Bool](repeating: false, count: paddedLength - length)
      return before + (padsLeft ? padding + held : held + padding)
    }
  }
}

/// What goes through the layers with a batch.
final class TrainingPass {
  let workspace: Workspace
  let lengths: [Int]
  /// For each row of the padded batch whether it holds a token: dropout draws for all of them.
  let heldRows: [Bool]
  private let places: [AttentionMask.Place]
  /// Positions of the padded batch's rows, with rows before the tokens.
  private let paddedLength: Int
  /// Rows or positions before each sequence's tokens.
  private let before: (rows: Int, positions: Int)
  /// False for evaluation: nothing is dropped.
  let drops: Bool
  /// torch's global generator.
  var generator: TorchGenerator
  /// Angles of each row's position.
  let angles: (cosines: [Float], sines: [Float])?

  /// - Parameter rowsBefore: rows before each sequence's tokens.
  /// - Parameter prefix: positions before each sequence's first.
  init(
    _ batch: TokenBatch, _ model: FrozenModel, rowsBefore: Int = 0, prefix: Int = 0, drops: Bool,
    generator: TorchGenerator, in workspace: Workspace
  ) {
    let lengths = batch.lengths.map { $0 + rowsBefore }
    let longest = lengths.max() ?? 0
    self.workspace = workspace
    self.drops = drops
    self.generator = generator
    self.lengths = lengths
    heldRows = batch.heldRows(after: rowsBefore)
    places = batch.places
    paddedLength = batch.paddedLength + rowsBefore
    before = (rowsBefore, prefix)
    angles = model.angles.map { angles in
      var (cosines, sines): ([Float], [Float]) = ([], [])
      let all = angles(longest + prefix)
      let width = all.cosines.count / max(1, longest + prefix)
      for length in lengths {
        cosines += all.cosines[prefix * width..<(prefix + length) * width]
        sines += all.sines[prefix * width..<(prefix + length) * width]
      }
      return (cosines, sines)
    }
  }

  /// A number as `torch.rand` draws it, of `[0, 1)`.
  func drawnShare() -> Float { Float(generator.nextBits() & 0xFF_FFFF) * 0x1p-24 }

  /// A mask for what queries see of keys, or nil where it drops nothing.
  func attentionMask(_ probability: Double, heads: Int) -> AttentionMask? {
    guard drops && probability > 0 else { return nil }
    return AttentionMask(
      probability: probability, places: places, heads: heads, queries: paddedLength,
      keys: paddedLength + before.positions, before: before.rows + before.positions, from: &generator)
  }

  /// A mask for inputs of a dropout, or nil where it drops nothing.
  func mask(_ probability: Double, columns: Int) -> DropoutMask? {
    guard drops && probability > 0 else { return nil }
    return DropoutMask(probability: probability, rows: heldRows, columns: columns, from: &generator)
  }
}
