internal import PEFT

/// A byte count for people: "2.2 GB", in powers of ten.
func bytesText(_ count: Int) -> String {
  let units: [(Double, String)] = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
  for (size, name) in units where Double(count) >= size {
    let value = Double(count) / size
    return "\(fixed(value, value < 10 ? 2 : value < 100 ? 1 : 0)) \(name)"
  }
  return "\(count) B"
}

/// A number of things: "1 tensor", "2 tensors".
func countText(_ count: Int, _ noun: String) -> String { "\(grouped(count)) \(noun)\(count == 1 ? "" : "s")" }

/// Names on one line: all of a few, or the first and how many more there are.
func listText(_ names: [String]) -> String {
  let shown = names.prefix(8).joined(separator: ", ")
  return names.count > 8 ? "\(shown) and \(grouped(names.count - 8)) more" : shown
}

/// A number without needless zeros: "2", "0.5", "11.3137".
func numberText(_ value: Double) -> String {
  var text = fixed(value, 4)
  while text.hasSuffix("0") { text.removeLast() }
  if text.hasSuffix(".") { text.removeLast() }
  return text == "0" && value != 0 ? "\(value)" : text
}

/// Three digits for reading: "0.0123", "45.6", and "1.23e-07" beyond what that shows well.
func shortText(_ value: Double) -> String {
  let size = abs(value)
  guard value.isFinite, size >= 1e-3, size < 1e4 else { return value == 0 ? "0" : scientific(value) }
  let decimals = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : size >= 0.1 ? 3 : size >= 0.01 ? 4 : 5
  return fixed(value, decimals)
}

/// As `shortText`, or a dash.
func dashed(_ value: Double?) -> String { value.map(shortText) ?? "–" }

/// Rows with their columns aligned, two spaces apart; the last column is not padded. Cells of more than 120 characters, which only files
/// have, are not what others are aligned to.
func table(_ rows: [[String]]) -> [String] {
  var widths: [Int] = []
  for row in rows {
    for (index, cell) in row.enumerated() {
      if index == widths.count { widths.append(0) }
      widths[index] = max(widths[index], min(cell.count, 120))
    }
  }
  return rows.map { row in
    row.enumerated().map { index, cell in
      index == row.count - 1 ? cell : cell + String(repeating: " ", count: max(0, widths[index] - cell.count))
    }.joined(separator: "  ")
  }
}

/// Text broken into lines of at most `width` characters, each after `indent`.
func wrapped(_ text: String, width: Int = 80, indent: String = "") -> String {
  text.split(separator: "\n", omittingEmptySubsequences: false).map { paragraph in
    var lines: [String] = []
    var line = ""
    for word in paragraph.split(separator: " ") {
      if !line.isEmpty && indent.count + line.count + 1 + word.count > width {
        lines.append(indent + line)
        line = ""
      }
      line += (line.isEmpty ? "" : " ") + word
    }
    lines.append(line.isEmpty ? "" : indent + line)
    return lines.joined(separator: "\n")
  }.joined(separator: "\n")
}

/// A size such as "5GB", "500 MiB" or "1000000" in bytes; nil if it is none.
func parseBytes(_ text: String) -> Int? {
  let trimmed = text.filter { $0 != " " }
  let digits = trimmed.prefix { $0.isNumber || $0 == "." }
  let units: [String: Double] = [
    "": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 1024, "MIB": 1_048_576, "GIB": 1_073_741_824,
    "TIB": 1_099_511_627_776,
  ]
  guard let number = Double(digits), let unit = units[trimmed.dropFirst(digits.count).uppercased()] else { return nil }
  let bytes = number * unit
  return bytes >= 1 && bytes < 1e18 ? Int(bytes) : nil
}
