/// Why a template is not understood, or what it says itself.
struct JinjaFailure: Error {
  let reason: String

  init(_ reason: String) { self.reason = reason }
}

/// What one rendering may use: steps, and bytes of the values that are alive or in the making.
///
/// Whatever a template does is paid here before it is done, so that a hostile one ends in an error.
final class JinjaBudget {
  /// Steps of a rendering: a second or two.
  static let stepLimit = 3_000_000
  /// Bytes of the values alive or in the making at one time.
  static let byteLimit = 96 << 20
  /// Levels of lists in lists.
  static let levelLimit = 120

  private let limit: Int
  private var steps = 0
  private var bytes = 0
  /// Bytes that were paid for and are not a value yet: what a loop has made of a text so far.
  private(set) var pending = 0

  /// - Parameter stepLimit: steps that may be taken.
  init(stepLimit: Int) { limit = stepLimit }

  /// Pays for work. Throws if there is too much of it.
  func step(_ count: Int = 1) throws(JinjaFailure) {
    steps += count
    guard steps <= limit else { throw JinjaFailure("it takes more than \(limit) steps") }
  }

  /// Pays for looking at so many characters or items, each by itself.
  func look(at count: Int) throws(JinjaFailure) { try step(1 + count / 16) }

  /// Counts work that was done; the next payment finds it.
  func note(_ count: Int) { steps += count / 16 }

  /// Pays for bytes that are about to be made. They are pending until `hold` or `settle`. Throws if they, what is pending
  /// and what is alive are too many.
  func spend(bytes count: Int) throws(JinjaFailure) {
    try step(1 + count / 1024)
    guard count <= Self.byteLimit - bytes - pending else {
      throw JinjaFailure("its values take more than \(Self.byteLimit >> 20) MB")
    }
    pending += count
  }

  /// Pays for `count` things of `size` bytes that are about to be made.
  func spend(_ count: Int, of size: Int) throws(JinjaFailure) {
    let (total, overflow) = count.multipliedReportingOverflow(by: size)
    try spend(bytes: overflow ? Int.max >> 1 : total)
  }

  /// Pays for a text that a loop has made, 4096 characters at a time. `paid` are those already paid for.
  func pay(_ paid: inout Int, of characters: Int) throws(JinjaFailure) {
    guard characters - paid >= 4096 else { return }
    try spend(characters - paid, of: 4)
    paid = characters
  }

  /// Ends a statement or an operation that began with so much pending: what it paid for is alive by now, or gone.
  func settle(_ before: Int) { pending = before }

  /// Counts the bytes of a value that is alive from now on, and pending no more.
  func hold(_ count: Int) {
    bytes += count
    pending = max(0, pending - count)
  }

  /// Takes back what `hold` counted.
  func release(_ count: Int) { bytes -= count }
}
