internal import TensorFiles

/// The files that a path of records stands for, and what is in them, one record at a time.
///
/// A `.jsonl` file has a JSON object a line; a `.json` file a list of them, or as `.jsonl`; any other file is one text. A directory stands for
/// its files in the order of their names, or for its train.jsonl where it has one.
struct TrainingFiles {
  /// Where a record stands.
  struct Place {
    let path: String
    /// A line, or in a list the record's number; 0 for a whole file.
    let line: Int
    var isElement = false

    func error(_ reason: String) -> TrainingError {
      .record(path: path, line: isElement ? 0 : line, reason: isElement ? "record \(line): \(reason)" : reason)
    }
  }

  /// What is read of a file.
  enum Content {
    case object(JSONValue)
    case text(String)
  }

  let paths: [String]

  init(_ path: String) throws(TrainingError) {
    guard FileSystem.kind(path) == .directory else {
      paths = [path]
      return
    }
    do throws(TensorFileError) {
      let names = try FileSystem.names(in: path).filter { name in
        !name.hasPrefix(".") && Self.suffixes.contains { name.hasSuffix($0) }
      }
      let chosen = names.contains("train.jsonl") ? ["train.jsonl"] : names
      paths = chosen.map { FileSystem.join(path, $0) }
    } catch { throw .file(error) }
    guard !paths.isEmpty else {
      throw .record(
        path: path, line: 0, reason: "there is no file in it that ends in \(Self.suffixes.joined(separator: ", "))")
    }
  }

  private static let suffixes = [".jsonl", ".json", ".txt", ".md"]

  /// Records that a directory sets aside for evaluation; nil if it does not.
  static func held(in path: String) -> String? {
    ["valid.jsonl", "validation.jsonl", "eval.jsonl"].map { FileSystem.join(path, $0) }
      .first { FileSystem.kind(path) == .directory && FileSystem.kind($0) == .file }
  }

  /// Calls `body` with each record and its place.
  func visit(_ body: (Content, Place) throws(TrainingError) -> Void) throws(TrainingError) {
    for path in paths {
      if path.hasSuffix(".jsonl") {
        try lines(path, body)
      } else if path.hasSuffix(".json") {
        if try firstByte(path) == UInt8(ascii: "[") { try list(path, body) } else { try lines(path, body) }
      } else if try firstByte(path) == UInt8(ascii: "{") {
        try lines(path, body)
      } else {
        let text: String
        do throws(TensorFileError) { text = try FileSystem.text(path) } catch { throw .file(error) }
        guard text.contains(where: { !$0.isWhitespace }) else { continue }
        try body(.text(text), Place(path: path, line: 0))
      }
    }
  }

  private func firstByte(_ path: String) throws(TrainingError) -> UInt8? {
    do throws(TensorFileError) {
      let file = try OpenFile.open(reading: path)
      return try file.bytes(0..<min(4096, file.byteCount())).first { ![0x20, 0x09, 0x0A, 0x0D].contains($0) }
    } catch { throw .file(error) }
  }

  private func list(
    _ path: String, _ body: (Content, Place) throws(TrainingError) -> Void
  ) throws(TrainingError) {
    let json: JSONValue
    do throws(TensorFileError) { json = try JSONValue(contentsOf: path) } catch { throw .file(error) }
    for (index, element) in (json.elements ?? []).enumerated() {
      let place = Place(path: path, line: index + 1, isElement: true)
      guard element.members != nil else { throw place.error("it is no JSON object") }
      try body(.object(element), place)
    }
  }

  /// Lines are read a piece of the file at a time: no more than a line and a piece are held.
  private func lines(
    _ path: String, _ body: (Content, Place) throws(TrainingError) -> Void
  ) throws(TrainingError) {
    let file: OpenFile
    let count: Int
    do throws(TensorFileError) {
      file = try OpenFile.open(reading: path)
      count = try file.byteCount()
    } catch { throw .file(error) }
    var (number, rest, place) = (0, [UInt8](), 0)
    func take(_ line: ArraySlice<UInt8>) throws(TrainingError) {
      number += 1
      guard !line.allSatisfy({ $0 == 0x20 || $0 == 0x0D || $0 == 0x09 }) else { return }
      let place = Place(path: path, line: number)
      guard let json = JSONValue(parsing: String(decoding: line, as: UTF8.self)), json.members != nil else {
        throw place.error("it is no JSON object")
      }
      try body(.object(json), place)
    }
    while place < count {
      let bytes: [UInt8]
      do throws(TensorFileError) { bytes = try file.bytes(place..<min(place + 1 << 20, count)) } catch {
        throw .file(error)
      }
      place += bytes.count
      var start = 0
      while let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) {
        rest += bytes[start..<end]
        try take(rest[...])
        rest.removeAll(keepingCapacity: true)
        start = end + 1
      }
      rest += bytes[start...]
    }
    if !rest.isEmpty { try take(rest[...]) }
  }
}
