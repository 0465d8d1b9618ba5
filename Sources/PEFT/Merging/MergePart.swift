/// Which share of a merge one of several programs does: the third of eight, say.
public struct MergePart: Sendable, Equatable {
  /// Counted from one.
  public let number: Int
  public let count: Int

  /// Most parts that a merge has.
  public static let greatestCount = 65_536

  /// Nil unless `number` is one of `1...count`, and `count` at most `greatestCount`.
  public init?(number: Int, of count: Int) {
    guard count >= 1, count <= Self.greatestCount, (1...count).contains(number) else { return nil }
    self.number = number
    self.count = count
  }

  /// A part as it is typed: "3/8". Nil for anything else.
  public init?(_ text: String) {
    let words = text.split(separator: "/", omittingEmptySubsequences: false)
    let digits = words.allSatisfy { $0.utf8.allSatisfy { (0x30...0x39).contains($0) } }
    guard words.count == 2, digits, let number = Int(words[0]), let count = Int(words[1]) else { return nil }
    self.init(number: number, of: count)
  }

  /// What of a file is a part's.
  struct Share: Equatable {
    /// The file's place among the files.
    let file: Int
    /// Places among the file's pieces.
    var pieces: Range<Int>
    /// True for the one part that writes what stands before the data.
    let writesHeader: Bool
  }

  /// What is this part's of files with pieces of so many bytes. Every piece, and every header, is one part's.
  ///
  /// With at least as many files as parts each part takes whole files, the largest first, each by the part that has the
  /// least so far: no two programs write to one file. With fewer, each takes a stretch of all pieces in their order.
  func shares(of files: [[Int]]) -> [Share] { files.count >= count ? wholeFiles(files) : stretches(files) }

  private func wholeFiles(_ files: [[Int]]) -> [Share] {
    let sizes = files.map { $0.reduce(0, +) }
    var loads = [Int](repeating: 0, count: count)
    var shares: [Share] = []
    for file in sizes.indices.sorted(by: { (-sizes[$0], $0) < (-sizes[$1], $1) }) {
      guard let owner = loads.indices.min(by: { (loads[$0], $0) < (loads[$1], $1) }) else { continue }
      // A file without data is a share as well.
      loads[owner] += max(1, sizes[file])
      if owner == number - 1 { shares.append(Share(file: file, pieces: files[file].indices, writesHeader: true)) }
    }
    return shares.sorted { $0.file < $1.file }
  }

  private func stretches(_ files: [[Int]]) -> [Share] {
    let total = files.reduce(0) { $1.reduce($0, +) }
    var shares: [Share] = []
    var start = 0
    for (file, pieces) in files.enumerated() {
      if pieces.isEmpty, number == 1 { shares.append(Share(file: file, pieces: 0..<0, writesHeader: true)) }
      for (place, size) in pieces.enumerated() {
        defer { start += size }
        guard owner(of: start, in: total) == number - 1 else { continue }
        if shares.last?.file == file {
          shares[shares.count - 1].pieces = shares[shares.count - 1].pieces.lowerBound..<place + 1
        } else {
          shares.append(Share(file: file, pieces: place..<place + 1, writesHeader: place == 0))
        }
      }
    }
    return shares
  }

  /// The part, counted from zero, in which a byte of all data lies.
  private func owner(of byte: Int, in total: Int) -> Int {
    guard byte < total else { return count - 1 }
    return Int(UInt(total).dividingFullWidth(UInt(byte).multipliedFullWidth(by: UInt(count))).quotient)
  }
}
