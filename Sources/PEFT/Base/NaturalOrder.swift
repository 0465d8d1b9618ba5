/// Order of paths in which numbers count as numbers: layer 2 comes before layer 10.
///
/// Cost: one pass over the bytes that both have, and no memory: bases have a million names to be sorted.
func naturallyPrecedes(_ left: String, _ right: String) -> Bool {
  let (a, b) = (left.utf8Span.span, right.utf8Span.span)
  let dot = UInt8(ascii: ".")
  var place = 0
  var start = 0
  while place < a.count, place < b.count, a[place] == b[place] {
    if a[place] == dot { start = place + 1 }
    place += 1
  }
  func end(_ bytes: Span<UInt8>) -> Int {
    var end = place
    while end < bytes.count, bytes[end] != dot { end += 1 }
    return end
  }
  let (endA, endB) = (end(a), end(b))
  // The part is the same, so that one path has more parts than the other, or none has.
  if endA == place, endB == place { return a.count < b.count }
  if let m = wholeNumber(a, start..<endA), let n = wholeNumber(b, start..<endB) { return m < n }
  guard place < endA, place < endB else { return endA == place }
  return a[place] < b[place]
}

/// What `Int(_:)` makes of a part of a text.
private func wholeNumber(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Int? {
  var place = range.lowerBound
  guard place < range.upperBound else { return nil }
  let isNegative = bytes[place] == UInt8(ascii: "-")
  if isNegative || bytes[place] == UInt8(ascii: "+") { place += 1 }
  guard place < range.upperBound else { return nil }
  var value = 0
  while place < range.upperBound {
    guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[place]) else { return nil }
    let digit = Int(bytes[place] - UInt8(ascii: "0"))
    let (product, overflows) = value.multipliedReportingOverflow(by: 10)
    let (sum, exceeds) = product.addingReportingOverflow(isNegative ? -digit : digit)
    if overflows || exceeds { return nil }
    value = sum
    place += 1
  }
  return value
}

/// The part of a path after its last dot.
func lastPart(_ path: String) -> String {
  var text = Substring(path)
  while text.utf8.last == UInt8(ascii: ".") { text = Substring(text.utf8.dropLast()) }
  guard !text.isEmpty else { return path }
  let dot = text.utf8.lastIndex(of: UInt8(ascii: "."))
  return String(dot.map { text[text.utf8.index(after: $0)...] } ?? text)
}
