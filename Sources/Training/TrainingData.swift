internal import TensorFiles

/// Records as tokens and labels.
public struct TrainingData {
  public private(set) var records: [TrainingRecord] = []
  /// Records that were cut.
  public private(set) var truncatedCount = 0
  /// Tokens that were cut off.
  public private(set) var lostTokens = 0
  /// Documents before packing.
  public private(set) var documentCount = 0

  /// Reads a file, or the files of a directory. Throws `.record` with file, line and reason, `.file`.
  public init(path: String, _ reader: RecordReader) throws(TrainingError) {
    let files = try TrainingFiles(path)
    try files.visit { content, place throws(TrainingError) in
      switch content {
      case .object(let json): try add(try reader.record(json, place), reader, place)
      case .text(let text): for part in try reader.parts(text, place) { try add(part, reader, place) }
      }
    }
    guard !records.isEmpty else { throw .record(path: path, line: 0, reason: "there is no record in it") }
    documentCount = records.count
    if reader.packs { records = Self.packed(records, length: reader.maxLength) }
  }

  private mutating func add(
    _ record: TrainingRecord, _ reader: RecordReader, _ place: TrainingFiles.Place
  ) throws(TrainingError) {
    let (count, most) = (record.tokens.count, reader.maxLength)
    guard record.labelledCount > 0 else {
      throw place.error("nothing in it is learnt: none of its \(count) tokens after the first has a label")
    }
    guard count > most else { return records.append(record) }
    guard reader.truncates else {
      throw place.error("it has \(count) tokens, over the \(most) of a record; give --max-length or --truncate")
    }
    truncatedCount += 1
    lostTokens += count - most
    let cut = TrainingRecord(tokens: Array(record.tokens.prefix(most)), labels: Array(record.labels.prefix(most)))
    guard cut.labelledCount > 0 else {
      throw place.error(
        "nothing in it is learnt: it has \(count) tokens, and no label is among the \(most) that are left of it; "
          + "give a greater --max-length, or leave the record out")
    }
    records.append(cut)
  }

  /// Records put together, up to `length` tokens: the longest first, each where the least room is left.
  ///
  /// Source: trl/data_utils.py `pack_dataset`, strategy `bfd`.
  static func packed(_ records: [TrainingRecord], length: Int) -> [TrainingRecord] {
    let order = records.indices.sorted { (records[$1].tokens.count, $0) < (records[$0].tokens.count, $1) }
    var rows: [[Int]] = []
    // Rows by the room that is left in them.
    var byRoom = [[Int]](repeating: [], count: length + 1)
    for index in order {
      let count = records[index].tokens.count
      if let room = (count...length).first(where: { !byRoom[$0].isEmpty }) {
        let row = byRoom[room].removeFirst()
        rows[row].append(index)
        byRoom[room - count].append(row)
      } else {
        byRoom[length - count].append(rows.count)
        rows.append([index])
      }
    }
    return rows.map { row in
      TrainingRecord(
        tokens: row.flatMap { records[$0].tokens }, labels: row.flatMap { records[$0].labels },
        lengths: row.flatMap { records[$0].lengths })
    }
  }
}

extension TrainingData {
  /// The file of evaluation in a directory of records; nil if there is none.
  public static func heldRecords(in path: String) -> String? { TrainingFiles.held(in: path) }
}
