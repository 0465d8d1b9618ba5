internal import TensorMath

/// How many numbers of the generator a batch takes, told from its extents: a·rows·length² + b·rows·length + c·rows + d.
///
/// Dropout and noise draw for each element of the padded batch, also before each row where there are virtual tokens, and for each
/// pair of positions in attention; a method may draw as many numbers for every batch. A rank that passes over another's batch
/// needs to know no more of it.
struct DrawCount: Equatable {
  private let perPair: Int
  private let perToken: Int
  private let perRow: Int
  private let perBatch: Int

  /// Sends five small batches through the model, and leaves generator and gradients as they were.
  ///
  /// Throws `.contradiction` where a batch's draws depend on what was drawn.
  init(_ model: TrainableModel) throws(TrainingError) {
    guard !model.parts.drawsVary else {
      throw .contradiction(
        "module_dropout and rank_dropout of LoHa and LoKr take another count of random numbers each time, so that several "
          + "ranks cannot draw as one program does. Leave them out, or train with one rank.")
    }
    guard !model.drawsLayers else {
      throw .contradiction(
        "layerdrop takes another count of random numbers each time, so that several ranks cannot draw as one program does. "
          + "Set it to 0 in the model's config.json, or train with one rank.")
    }
    let generator = model.generator
    var counts: [Int] = []
    for (rows, length) in [(1, 2), (1, 3), (1, 4), (2, 2), (2, 3)] {
      let tokens = [[Int]](repeating: [Int](repeating: 0, count: length), count: rows)
      _ = model.addGradients(of: TokenBatch(sequences: tokens, labels: tokens), share: 1)
      counts.append(generator.words(to: model.generator) ?? -1)
      model.generator = generator
    }
    model.parameters.gradients.clear()
    perPair = (counts[2] - 2 * counts[1] + counts[0]) / 2
    perToken = counts[1] - counts[0] - 5 * perPair
    perRow = counts[3] - counts[0] - 4 * perPair - 2 * perToken
    perBatch = counts[0] - 4 * perPair - 2 * perToken - perRow
    guard !counts.contains(-1), counts[2] == 16 * perPair + 4 * perToken + perRow + perBatch,
      counts[4] == 18 * perPair + 6 * perToken + 2 * perRow + perBatch
    else {
      throw .contradiction(
        "how many random numbers a batch takes cannot be told from its extents, so that several ranks cannot draw as one "
          + "program does. Train with one rank.")
    }
  }

  func words(of batch: TokenBatch) -> Int {
    let length = batch.paddedCount / max(1, batch.rowCount)
    return (perPair * length + perToken) * batch.paddedCount + perRow * batch.rowCount + perBatch
  }
}

extension TorchGenerator {
  /// How many words were drawn of this one until it was `later`; nil if it was not within 2⁴⁰.
  func words(to later: TorchGenerator) -> Int? {
    var generator = self
    var count = (later.words.next - words.next + 624) % 624
    generator.skip(words: count)
    while generator != later {
      guard count < 1 << 40 else { return nil }
      generator.skip(words: 624)
      count += 624
    }
    return count
  }
}
