/// A record that can be trained on: tokens, and what is to be learnt of them.
public struct TrainingRecord: Sendable, Equatable {
  public let tokens: [Int]
  /// As many as tokens; -100 where nothing is learnt.
  public let labels: [Int]
  /// Tokens of each document that is packed into the record; one for most.
  ///
  /// Documents begin at position 0 each and do not see one another.
  public let lengths: [Int]

  /// Traps unless labels and documents fit the tokens.
  public init(tokens: [Int], labels: [Int], lengths: [Int]? = nil) {
    precondition(tokens.count == labels.count, "labels do not fit the tokens")
    self.tokens = tokens
    self.labels = labels
    self.lengths = lengths ?? [tokens.count]
    precondition(self.lengths.reduce(0, +) == tokens.count && !self.lengths.contains(0), "documents do not fit")
  }

  /// Tokens whose label is learnt: none is at a document's first token.
  public var labelledCount: Int {
    var (count, start) = (0, 0)
    for length in lengths {
      count += labels[start + 1..<start + length].count { $0 != -100 }
      start += length
    }
    return count
  }
}
