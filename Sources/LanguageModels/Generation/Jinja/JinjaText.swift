/// A string as Python has it: code points, compared one by one.
final class JinjaText: Hashable {
  let scalars: [Unicode.Scalar]
  /// True for what `safe` and `escape` give: markupsafe's Markup, which escapes what is added to it.
  let isMarkup: Bool
  private let budget: JinjaBudget?

  /// A text of the template itself, or one that `budget` pays for.
  init(_ scalars: [Unicode.Scalar], isMarkup: Bool = false, budget: JinjaBudget? = nil) {
    self.scalars = scalars
    self.isMarkup = isMarkup
    self.budget = budget
    budget?.hold(byteCount)
  }

  convenience init(_ string: String) { self.init(Array(string.unicodeScalars)) }

  deinit { budget?.release(byteCount) }

  private var byteCount: Int { 64 + 4 * scalars.count }

  /// For names of attributes, filters and the like.
  var string: String { String(scalars) }

  static func == (a: JinjaText, b: JinjaText) -> Bool { a === b || a.scalars == b.scalars }

  func hash(into hasher: inout Hasher) { hasher.combine(scalars) }
}

extension String {
  init(_ scalars: some Sequence<Unicode.Scalar>) {
    var view = String.UnicodeScalarView()
    view.append(contentsOf: scalars)
    self.init(view)
  }
}

extension [Unicode.Scalar] {
  init(_ string: String) { self = Array(string.unicodeScalars) }
}

extension Unicode.Scalar {
  /// Python's `str.isspace`.
  var isPythonSpace: Bool {
    value < 0x80
      ? value == 0x20 || (0x09...0x0D).contains(value) || (0x1C...0x1F).contains(value)
      : properties.isWhitespace
  }

  /// Where Python's `str.splitlines` divides.
  var endsPythonLine: Bool {
    (0x0A...0x0D).contains(value) || (0x1C...0x1E).contains(value) || value == 0x85 || value == 0x2028
      || value == 0x2029
  }

  /// Python's `str.isprintable`.
  var isPythonPrintable: Bool {
    if value < 0x7F { return value >= 0x20 }
    switch properties.generalCategory {
    case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator, .spaceSeparator:
      return false
    default: return true
    }
  }

  /// Part of a word in Python's regular expressions.
  var isPythonWord: Bool {
    if value < 0x80 { return self == "_" || isPythonAlphanumeric }
    return isPythonAlphanumeric
  }

  var isPythonLetter: Bool {
    switch properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: true
    default: false
    }
  }

  var isPythonAlphanumeric: Bool { isPythonLetter || properties.numericType != nil }

  /// Uppercase, lowercase or titlecase letter.
  var isCased: Bool {
    properties.isLowercase || properties.isUppercase || properties.generalCategory == .titlecaseLetter
  }
}

/// Changes of case, a code point at a time as Python does.
enum JinjaCase {
  static func upper(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    var result: [Unicode.Scalar] = []
    result.reserveCapacity(scalars.count)
    for scalar in scalars { result.append(contentsOf: scalar.properties.uppercaseMapping.unicodeScalars) }
    return result
  }

  static func lower(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    var result: [Unicode.Scalar] = []
    result.reserveCapacity(scalars.count)
    for index in scalars.indices { appendLower(scalars, index, to: &result) }
    return result
  }

  /// The first character as a title has it, the others small.
  static func capitalized(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    guard let first = scalars.first else { return [] }
    var result = Array(first.properties.titlecaseMapping.unicodeScalars)
    for index in scalars.indices.dropFirst() { appendLower(scalars, index, to: &result) }
    return result
  }

  /// Python's `str.title`: a capital after each character that is no letter.
  static func title(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    var result: [Unicode.Scalar] = []
    var isInWord = false
    for (index, scalar) in scalars.enumerated() {
      if isInWord {
        appendLower(scalars, index, to: &result)
      } else {
        result.append(contentsOf: scalar.properties.titlecaseMapping.unicodeScalars)
      }
      isInWord = scalar.isCased
    }
    return result
  }

  static func swapped(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    var result: [Unicode.Scalar] = []
    for (index, scalar) in scalars.enumerated() {
      if scalar.properties.isUppercase {
        appendLower(scalars, index, to: &result)
      } else {
        result.append(contentsOf: scalar.properties.uppercaseMapping.unicodeScalars)
      }
    }
    return result
  }

  /// A capital sigma at the end of a word becomes the final one.
  private static func appendLower(_ scalars: [Unicode.Scalar], _ index: Int, to result: inout [Unicode.Scalar]) {
    let scalar = scalars[index]
    guard scalar == "\u{3A3}" else {
      result.append(contentsOf: scalar.properties.lowercaseMapping.unicodeScalars)
      return
    }
    let before = scalars[..<index].last { !$0.properties.isCaseIgnorable }
    let after = scalars[(index + 1)...].first { !$0.properties.isCaseIgnorable }
    let isFinal = before.map(\.isCased) == true && after.map(\.isCased) != true
    result.append(isFinal ? "\u{3C2}" : "\u{3C3}")
  }
}
