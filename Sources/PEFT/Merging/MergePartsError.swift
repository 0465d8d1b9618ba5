/// Why the parts of a merge do not come together.
public enum MergePartsError: Error, Sendable, Equatable {
  /// There is no directory of parts.
  case none(output: String, staging: String)
  /// The parts that are there are of another merge: what differs, as it is now and as the parts have it.
  case ofAnotherMerge(staging: String, what: String, found: String, expected: String)
  /// What tells the parts' merge cannot be read.
  case badManifest(path: String)
  /// Parts that have not come to their end.
  case missing(staging: String, parts: [Int], count: Int)
  /// Parts that are done, but of other inputs than the rest.
  case different(staging: String, parts: [Int], count: Int)
  /// A file is not what the parts that write to it left.
  case damaged(file: String, parts: [Int], count: Int)
  /// The output has its name already, and a directory of parts was left.
  case leftOver(staging: String)
}

extension MergePartsError: CustomStringConvertible {
  public var description: String {
    switch self {
    case .none(let output, let staging):
      "\(output): no part of it is there: \(staging) does not exist. Its parts are done first."
    case .ofAnotherMerge(let staging, let what, let found, let expected):
      "\(staging): the parts in it are of another merge: \(what) is \(found) now, and was \(expected). Give what it was, or "
        + "remove that directory to begin anew."
    case .badManifest(let path): "\(path): it does not say what the parts are of. Remove its directory to begin anew."
    case .missing(let staging, let parts, let count):
      "\(staging): \(list(parts, count)) not done. Do \(parts.count == 1 ? "it" : "them"), or wait."
    case .different(let staging, let parts, let count):
      "\(staging): \(list(parts, count)) of other inputs than the rest. Do \(parts.count == 1 ? "it" : "them") again."
    case .damaged(let file, let parts, let count):
      "\(file): it does not have the length or the header that the merge gives it. Do again what writes it: "
        + "\(parts.count == 1 ? "part" : "parts") \(parts.prefix(20).map { "\($0)/\(count)" }.joined(separator: ", "))."
    case .leftOver(let staging):
      "\(staging): it is left of a merge that has been finished. Finish it again, or remove that directory."
    }
  }

  /// "part 3/8 is", "parts 3/8 and 5/8 are".
  private func list(_ parts: [Int], _ count: Int) -> String {
    let shown = parts.prefix(20).map { "\($0)/\(count)" }
    if shown.count == 1, parts.count == 1 { return "part \(shown[0]) is" }
    if parts.count > shown.count {
      return "parts \(shown.joined(separator: ", ")) and \(parts.count - shown.count) more are"
    }
    return "parts \(shown.dropLast().joined(separator: ", ")) and \(shown[shown.count - 1]) are"
  }
}
