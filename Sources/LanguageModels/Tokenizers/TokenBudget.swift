internal import TensorFiles

/// What one reading of a tokenizer's file, one encoding or one decoding may cost, in bytes that are read, written or compared.
///
/// Files say what is done to a text, and how often; nothing in the format bounds it. Those that models come with spend a fraction
/// of this: a handful of steps over the text, where some hundred are paid for.
final class TokenBudget {
  private let path: String
  private var left: Int

  /// For a text of so many bytes.
  init(byteCount: Int, path: String) {
    let (product, overflows) = byteCount.multipliedReportingOverflow(by: 512)
    left = overflows ? .max : 1_000_000 + min(product, .max - 1_000_000)
    self.path = path
  }

  /// Parts that a file's normalizer, pre-tokenizer, post-processor and decoder may have together.
  private static let parts = 1000

  /// Throws `.tokenizerTooCostly` if less than that is left.
  func spend(_ steps: Int) throws(ModelError) {
    guard steps <= left else { throw .tokenizerTooCostly(path: path) }
    left -= steps
  }

  /// As `spend(_:)`, for so many things that cost so much each.
  func spend(_ count: Int, times cost: Int) throws(ModelError) {
    let (product, overflows) = count.multipliedReportingOverflow(by: cost)
    try spend(overflows ? .max : product)
  }

  /// Checks how many parts a file has. Throws `.tokenizerComponent`.
  static func check(partsOf json: JSONValue, path: String) throws(ModelError) {
    for key in ["normalizer", "pre_tokenizer", "post_processor", "decoder"]
    where json[key]?.isNested(deeperThan: 64) ?? false {
      throw .tokenizerComponent(path: path, part: key, found: "more than 64 levels")
    }
    var count = 0
    for key in ["normalizer", "pre_tokenizer", "post_processor", "decoder"] { count += json[key]?.partCount ?? 0 }
    guard count <= parts else {
      throw .tokenizerComponent(path: path, part: "configuration", found: "\(count) parts, over \(parts)")
    }
  }
}

extension JSONValue {
  /// True if there are more levels of arrays and objects than that.
  fileprivate func isNested(deeperThan levels: Int) -> Bool {
    switch self {
    case .array(let items): levels <= 0 || items.contains { $0.isNested(deeperThan: levels - 1) }
    case .object(let members): levels <= 0 || members.contains { $0.value.isNested(deeperThan: levels - 1) }
    default: false
    }
  }

  /// Objects in it, itself counted.
  fileprivate var partCount: Int {
    switch self {
    case .array(let items): items.reduce(0) { $0 + $1.partCount }
    case .object(let members): members.reduce(1) { $0 + $1.value.partCount }
    default: 0
    }
  }
}
