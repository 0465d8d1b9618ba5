/// A piece of a page. What stands between its quotes in the source is markup; what is put in is text, and escaped.
struct HTML: Sendable, ExpressibleByStringInterpolation {
  private(set) var markup: String

  init(stringLiteral markup: String) { self.markup = markup }

  init(stringInterpolation: StringInterpolation) { markup = stringInterpolation.markup }

  /// Characters of a text from a file that are shown.
  static let greatestLength = 200

  struct StringInterpolation: StringInterpolationProtocol {
    fileprivate var markup = ""

    init(literalCapacity: Int, interpolationCount: Int) { markup.reserveCapacity(2 * literalCapacity) }

    mutating func appendLiteral(_ literal: String) { markup += literal }

    /// Text, at any place of markup but a tag's or an attribute's name: no quote, bracket or control character survives.
    mutating func appendInterpolation(
      _ text: String, limit: Int = HTML.greatestLength, keeping kept: Set<Unicode.Scalar> = []
    ) {
      for character in printable(text, limit: limit, keeping: kept).unicodeScalars {
        switch character {
        case "&": markup += "&amp;"
        case "<": markup += "&lt;"
        case ">": markup += "&gt;"
        case "\"": markup += "&quot;"
        case "'": markup += "&#39;"
        default: markup.unicodeScalars.append(character)
        }
      }
    }

    mutating func appendInterpolation(_ number: Int) { markup += String(number) }

    mutating func appendInterpolation(_ html: HTML) { markup += html.markup }

    mutating func appendInterpolation(_ pieces: [HTML]) { for piece in pieces { markup += piece.markup } }
  }

  static func += (left: inout HTML, right: HTML) { left.markup += right.markup }
}
