internal import Glibc
internal import TensorFiles

/// Fetches a repository's files into the cache, each checked against its size and digest.
struct HubDownload {
  let hub: Hub
  let repository: Repository
  let report: (HubProgress) -> Void

  /// A file as the hub describes it.
  private struct Remote {
    let etag: String
    let byteCount: Int?
  }

  private func failure(_ reason: String) -> AdapterError { .download(name: repository.name, reason: reason) }

  /// Returns the snapshot's directory. A file that was begun is continued; one that is there is not fetched again.
  func run() throws(AdapterError) -> String {
    let listing = try get("\(hub.endpoint)/api/models/\(repository.name)/revision/\(escaped(repository.revision))")
    guard let json = JSONValue(parsing: listing), let commit = json["sha"]?.stringValue,
      commit.count == 40, commit.utf8.allSatisfy({ isHexadecimal($0) })
    else { throw failure("the hub's answer names no commit") }
    let files = wanted((json["siblings"]?.elements ?? []).compactMap { $0["rfilename"]?.stringValue })
    guard !files.isEmpty else { throw failure("it holds no safetensors or torch weights") }
    let folder = hub.folder(repository)
    let snapshot = "\(folder)/snapshots/\(commit)"
    for directory in ["\(folder)/blobs", "\(folder)/refs", snapshot] {
      try asAdapterError { () throws(TensorFileError) in try FileSystem.makeDirectories(directory) }
    }
    for name in files where !FileSystem.exists("\(snapshot)/\(name)") { try fetch(name, commit, folder, snapshot) }
    if repository.revision != commit {
      let reference = "\(folder)/refs/\(repository.revision)"
      try asAdapterError { () throws(TensorFileError) in
        try FileSystem.makeDirectories(FileSystem.parentDirectory(reference))
        if FileSystem.exists(reference) { try FileSystem.remove(reference) }
        try File.create(reference).write(commit)
      }
    }
    return snapshot
  }

  /// Configuration, tokenizer and weights at the top level; torch weights only where there are no safetensors.
  private func wanted(_ names: [String]) -> [String] {
    let plain = names.filter { name in
      !name.isEmpty && !name.hasPrefix(".") && !name.hasPrefix("/") && !name.contains("..")
        && name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F } && !name.contains("/")
    }
    let endings = [".json", ".safetensors", ".txt", ".model", ".jinja", ".md", ".bin"]
    let hasSafetensors = plain.contains { $0.hasSuffix(".safetensors") }
    guard plain.contains(where: { $0.hasSuffix(".safetensors") || $0.hasSuffix(".bin") }) else { return [] }
    return plain.filter { name in
      endings.contains(where: name.hasSuffix)
        && !(hasSafetensors && (name.hasSuffix(".bin") || name.hasSuffix(".bin.index.json")))
        && name != "training_args.bin"
    }
  }

  private func fetch(_ name: String, _ commit: String, _ folder: String, _ snapshot: String) throws(AdapterError) {
    let address = "\(hub.endpoint)/\(repository.name)/resolve/\(commit)/\(escaped(name))"
    let remote = try describe(address, name)
    let blob = "\(folder)/blobs/\(remote.etag)"
    if FileSystem.kind(blob) != .file {
      let part = "\(blob).incomplete"
      do throws(AdapterError) {
        try download(address, to: part, name, remote)
        try check(part, remote, name)
      } catch {
        // What was begun by another program may not fit: once more, from the start.
        guard FileSystem.exists(part) else { throw error }
        try asAdapterError { () throws(TensorFileError) in try FileSystem.remove(part) }
        try download(address, to: part, name, remote)
        try check(part, remote, name)
      }
      guard rename(part, blob) == 0 else {
        throw .file(.system(path: blob, operation: "create", code: errno))
      }
    }
    guard symlink("../../blobs/\(remote.etag)", "\(snapshot)/\(name)") == 0 || errno == EEXIST else {
      throw .file(.system(path: "\(snapshot)/\(name)", operation: "link", code: errno))
    }
  }

  /// Size and digest, from the headers before any redirect to another host.
  private func describe(_ address: String, _ name: String) throws(AdapterError) -> Remote {
    let answer = try curl(["head", "url = \(Curl.quoted(address))"])
    var headers: [String: String] = [:]
    for line in answer.split(whereSeparator: \.isNewline) {
      guard let colon = line.firstIndex(of: ":") else { continue }
      headers[line[..<colon].lowercased()] = String(line[line.index(after: colon)...].drop { $0 == " " })
    }
    var etag = headers["x-linked-etag"] ?? headers["etag"] ?? ""
    if etag.hasPrefix("W/") { etag.removeFirst(2) }
    etag = etag.filter { $0 != "\"" }
    guard !etag.isEmpty, etag.utf8.count <= 128, etag.utf8.allSatisfy({ isHexadecimal($0) || $0 == 0x2D }) else {
      throw failure("'\(name)' has no digest")
    }
    let size = headers["x-linked-size"] ?? (headers["location"] == nil ? headers["content-length"] : nil)
    return Remote(etag: etag, byteCount: size.flatMap { Int($0) })
  }

  private func download(_ address: String, to path: String, _ name: String, _ remote: Remote) throws(AdapterError) {
    func tell() {
      let done = (try? File.open(reading: path).byteCount()) ?? 0
      report(HubProgress(repository: repository.name, file: name, doneBytes: done, totalBytes: remote.byteCount))
    }
    tell()
    let settings = [
      "location", "fail", "continue-at = -", "retry = 3", "output = \(Curl.quoted(path))",
      "url = \(Curl.quoted(address))",
    ]
    _ = try curl(settings, tick: tell)
    tell()
  }

  private func check(_ path: String, _ remote: Remote, _ name: String) throws(AdapterError) {
    let (count, digest) = try asAdapterError { () throws(TensorFileError) in
      let file = try File.open(reading: path)
      return (try file.byteCount(), remote.etag.count == 64 ? try SHA256.digest(of: file) : remote.etag)
    }
    if let expected = remote.byteCount, count != expected {
      throw failure("'\(name)' has \(count) bytes; the hub says \(expected)")
    }
    guard digest == remote.etag else { throw failure("'\(name)' does not have the digest that the hub says") }
  }

  private func get(_ address: String) throws(AdapterError) -> String {
    try curl(["location", "fail", "retry = 3", "url = \(Curl.quoted(address))"])
  }

  /// curl sends the token to the first host only: it drops the header when a redirect leads elsewhere.
  private func curl(_ settings: [String], tick: () -> Void = {}) throws(AdapterError) -> String {
    var lines = ["silent", "show-error", "connect-timeout = 30", "speed-limit = 1", "speed-time = 60"] + settings
    if let token = hub.token, !token.contains("\n") {
      lines.append("header = \(Curl.quoted("Authorization: Bearer \(token)"))")
    }
    guard let answer = Curl.run(lines, tick: tick) else { throw failure("curl is needed, and is not installed") }
    guard answer.code == 0 else {
      let reason =
        answer.error.split(whereSeparator: \.isNewline).first.map(String.init) ?? "curl failed (\(answer.code))"
      throw failure(reason)
    }
    return answer.output
  }

  private func escaped(_ text: String) -> String {
    text.utf8.map { byte in
      let character = Character(UnicodeScalar(byte))
      if character.isLetter || character.isNumber || "-._~/".contains(character) { return String(character) }
      let digits = String(byte, radix: 16, uppercase: true)
      return "%" + (digits.count == 1 ? "0" : "") + digits
    }.joined()
  }

  private func isHexadecimal(_ byte: UInt8) -> Bool {
    (0x30...0x39).contains(byte) || (0x61...0x66).contains(byte)
  }
}
