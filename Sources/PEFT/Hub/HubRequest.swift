internal import TensorFiles

/// What requests to a hub may take.
package struct HubLimits: Sendable {
  /// Bytes of a listing.
  package var listingBytes = 64 << 20
  /// Seconds for anything but a file.
  package var listingSeconds = 120.0
  /// Seconds in which `stallBytes` of a file must come, or all that is left of it.
  package var stallSeconds = 60.0
  package var stallBytes = 64 << 10
  /// Attempts in a row that bring less than 1 MiB.
  package var attempts = 5
  /// Seconds before the second attempt; doubled before each further one.
  package var pauseSeconds = 1.0
  /// Seconds that a hub may ask to wait for.
  package var longestPause = 120.0

  package init() {}
}

/// Asks a hub for things, again where that can help, and gives up within bounds.
struct HubRequest {
  let hub: Hub
  let repository: Repository
  let report: (HubProgress) -> Void

  /// Why an attempt brought nothing, or not all, and could be made again.
  private struct Failure {
    let reason: String
    /// Seconds that the hub asks to wait.
    var pause: Int?
    /// The server cannot send the rest of a file only.
    var refusesRange = false
  }

  private enum Outcome {
    case done(Curl.Answer)
    case again(Failure)
  }

  func failure(_ reason: String) -> AdapterError { .download(name: repository.name, reason: reason) }

  /// The text at an address, redirects followed. Throws `.download`, `.hubRefused`, `.downloadInterrupted`.
  func text(_ address: String, of what: String) throws(AdapterError) -> String {
    var bytes: [UInt8] = []
    _ = try repeating(what) { () throws(AdapterError) in
      bytes = []
      return try attempt(["location", "url = \(Curl.quoted(address))"], what, hub.limits.listingBytes, isFile: false) {
        bytes += $0
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// The headers at an address, before any redirect. Throws as `text(_:of:)`.
  func headers(_ address: String, of what: String) throws(AdapterError) -> [String: String] {
    try repeating(what) { () throws(AdapterError) in
      // With `head`, curl writes the headers as the body too.
      try attempt(["head", "url = \(Curl.quoted(address))"], what, hub.limits.listingBytes, isFile: false) { _ in }
    }.headers
  }

  /// Fills `part`, which may hold the beginning already, up to the file's size.
  ///
  /// A lost connection goes on from where it was. Throws as `text(_:of:)`, `.file`.
  func fill(_ part: OpenFile, from address: String, _ file: HubFile) throws(AdapterError) {
    var done = try asAdapterError { () throws(TensorFileError) in try part.byteCount() }
    func tell(_ state: HubProgress.State = .transferring) {
      report(
        HubProgress(
          repository: repository.name, file: file.name, doneBytes: done, totalBytes: file.byteCount, state: state))
    }
    if done > file.byteCount {
      try asAdapterError { () throws(TensorFileError) in try part.truncate(to: 0) }
      done = 0
    }
    tell()
    var (failures, mark, pause) = (0, done, hub.limits.pauseSeconds)
    while done < file.byteCount {
      let settings = ["location"] + (done > 0 ? ["continue-at = \(done)"] : []) + ["url = \(Curl.quoted(address))"]
      let outcome = try attempt(
        settings, "'\(file.name)'", file.byteCount - done, isFile: true,
        receive: { (bytes: ArraySlice<UInt8>) throws(TensorFileError) in
          try part.write(bytes.span.bytes, at: done)
          done += bytes.count
        }, tick: { tell() })
      var problem = Failure(reason: "'\(file.name)' has \(done) bytes; the hub says \(file.byteCount)")
      switch outcome {
      case .done where done == file.byteCount: continue
      case .done: break
      case .again(let failure): problem = failure
      }
      if problem.refusesRange {
        try asAdapterError { () throws(TensorFileError) in try part.truncate(to: 0) }
        done = 0
      }
      if done - mark >= 1 << 20 { (failures, pause) = (0, hub.limits.pauseSeconds) }
      mark = done
      failures += 1
      try wait(before: failures, problem, &pause) { tell($0) }
    }
    tell()
  }

  private func repeating(
    _ what: String, _ body: () throws(AdapterError) -> Outcome
  ) throws(AdapterError) -> Curl.Answer {
    var (failures, pause) = (0, hub.limits.pauseSeconds)
    while true {
      switch try body() {
      case .done(let answer): return answer
      case .again(let failure):
        failures += 1
        try wait(before: failures, failure, &pause) {
          report(HubProgress(repository: repository.name, file: what, doneBytes: 0, totalBytes: nil, state: $0))
        }
      }
    }
  }

  /// Waits before the next attempt, as long as the hub asks or longer than the last time; gives up after enough of them.
  private func wait(
    before failures: Int, _ failure: Failure, _ pause: inout Double, _ tell: (HubProgress.State) -> Void
  ) throws(AdapterError) {
    guard failures < hub.limits.attempts else { throw self.failure(failure.reason) }
    let seconds = failure.pause.map { Double($0) } ?? pause
    guard seconds <= hub.limits.longestPause else {
      throw .hubBusy(name: repository.name, reason: failure.reason, seconds: Int(clamping: Int64(seconds)))
    }
    tell(.retrying(seconds: seconds, reason: failure.reason))
    do throws(Curl.Stop) { try Curl.pause(seconds) } catch { throw .downloadInterrupted(name: repository.name) }
    pause = min(pause * 2, hub.limits.longestPause)
  }

  /// One run of curl, judged. The token goes to the first host only: curl drops the header when a redirect leads elsewhere.
  private func attempt(
    _ settings: [String], _ what: String, _ byteLimit: Int, isFile: Bool,
    receive: (ArraySlice<UInt8>) throws(TensorFileError) -> Void, tick: () -> Void = {}
  ) throws(AdapterError) -> Outcome {
    let limits = hub.limits
    let token = hub.token.map { ["header = \(Curl.quoted("Authorization: Bearer \($0)"))"] } ?? []
    let bounds = Curl.Bounds(
      bodyBytes: byteLimit, stallSeconds: limits.stallSeconds, stallBytes: isFile ? limits.stallBytes : 1,
      seconds: isFile ? nil : limits.listingSeconds)
    var received = 0
    let answer: Curl.Answer
    do throws(Curl.Stop) {
      answer = try Curl.run(
        ["fail"] + settings + token, bounds: bounds,
        receive: { (bytes: ArraySlice<UInt8>) throws(TensorFileError) in
          received += bytes.count
          try receive(bytes)
        }, tick: tick)
    } catch {
      switch error {
      case .cancelled: throw .downloadInterrupted(name: repository.name)
      case .notInstalled: throw failure("curl is needed, and is not installed")
      case .stalled: return .again(Failure(reason: "\(what) does not come in time"))
      case .tooLong: throw failure("\(what) is longer than the \(byteLimit) bytes that were expected")
      case .receiver(let error): throw .file(error)
      }
    }
    if answer.status >= 400 || answer.code == 22 { return .again(try refusal(answer)) }
    if answer.code == 0 { return .done(answer) }
    let problem = Failure(
      reason: "\(what): \(answer.message.isEmpty ? "curl failed (\(answer.code))" : answer.message)",
      refusesRange: answer.code == 33)
    // Connections that were lost: empty or cut answers, timeouts, failures of TLS, HTTP/2 and HTTP/3 in the middle.
    let isLost = [16, 18, 28, 35, 52, 55, 56, 92, 95, 96].contains(answer.code)
    // A host that is not found or does not answer is no passing thing, unless it has answered.
    let isGone = [5, 6, 7].contains(answer.code) && isFile
    guard problem.refusesRange || isLost || isGone || received > 0 else { throw failure(problem.reason) }
    return .again(problem)
  }

  /// An answer that is an error: to be tried again, or thrown.
  private func refusal(_ answer: Curl.Answer) throws(AdapterError) -> Failure {
    switch answer.status {
    case 408, 429, 500, 502, 503, 504:
      return Failure(
        reason: "the hub answers \(answer.status)",
        pause: answer.headers["retry-after"].flatMap { Int($0) }.map { max(0, $0) })
    case 416: return Failure(reason: "the hub does not send the rest of the file", refusesRange: true)
    default:
      throw .hubRefused(
        name: repository.name, revision: repository.revision, page: "\(hub.endpoint)/\(repository.name)",
        status: answer.status, code: answer.headers["x-error-code"] ?? "", hasToken: hub.token != nil)
    }
  }
}
