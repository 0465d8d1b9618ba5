internal import Glibc
internal import TensorFiles

/// Fetches a repository's files into the cache, each checked against its size and digest.
///
/// Files are made as blobs first. Their names in the snapshot come when all blobs are there, the weights' last, so that a
/// download that is cut leaves no snapshot that could be taken for a whole one; then the revision's name.
struct HubDownload {
  let hub: Hub
  let repository: Repository
  let report: (HubProgress) -> Void

  private var request: HubRequest { HubRequest(hub: hub, repository: repository, report: report) }
  private var folder: String { hub.folder(repository) }

  private func failure(_ reason: String) -> AdapterError { .download(name: repository.name, reason: reason) }

  /// Returns the snapshot's directory. A file that was begun is continued; one that is there is not fetched again.
  ///
  /// Throws `.download`, `.hubRefused`, `.hubBusy`, `.downloadInterrupted`, `.file`.
  func run() throws(AdapterError) -> String {
    let address = "\(hub.endpoint)/api/models/\(repository.name)/revision/\(escaped(repository.revision))?blobs=true"
    guard
      let listing = HubListing(
        answer: try request.text(address, of: "the list of files"), prefix: repository.prefix)
    else {
      throw failure("the hub's answer names no commit")
    }
    guard !listing.files.isEmpty else {
      throw failure(
        "\(repository.folder.isEmpty ? "it" : "'\(repository.folder)'") holds no safetensors or torch weights")
    }
    let snapshot = "\(folder)/snapshots/\(listing.commit)" + (repository.folder.isEmpty ? "" : "/\(repository.folder)")
    let locks = "\(hub.cache)/.locks/\(FileSystem.lastComponent(folder))"
    for directory in ["\(folder)/blobs", "\(folder)/refs", snapshot, locks] {
      try asAdapterError { () throws(TensorFileError) in try FileSystem.makeDirectories(directory) }
    }
    var files: [HubFile] = []
    for (name, described) in listing.files {
      let address = "\(hub.endpoint)/\(repository.name)/resolve/\(listing.commit)/\(escaped(repository.prefix + name))"
      let file = if let described { described } else { try describe(address, name) }
      if !holds("\(snapshot)/\(name)", file) { try fetch(file, address, locks) }
      files.append(file)
    }
    try asAdapterError { () throws(TensorFileError) in
      for file in files.sorted(by: { order($0.name) < order($1.name) }) { try link(file, in: snapshot) }
      if repository.revision != listing.commit { try writeReference(listing.commit) }
    }
    return snapshot
  }

  /// Weights after the rest, and of them last the names that are read without an index.
  private func order(_ name: String) -> Int {
    let single = [Checkpoint.singleName, Checkpoint.torchName, Adapter.weightsName, Adapter.torchName]
    return single.contains(name) ? 2 : HubListing.isWeights(name) ? 1 : 0
  }

  private func holds(_ path: String, _ file: HubFile) -> Bool {
    (try? OpenFile.open(reading: path).byteCount()) == file.byteCount
  }

  private func link(_ file: HubFile, in snapshot: String) throws(TensorFileError) {
    let path = "\(snapshot)/\(file.name)"
    if holds(path, file) { return }
    if FileSystem.exists(path) { try FileSystem.remove(path) }
    let up = String(repeating: "../", count: 2 + repository.prefix.count { $0 == "/" })
    guard symlink("\(up)blobs/\(file.digest.text)", path) == 0 || errno == EEXIST else {
      throw .system(path: path, operation: "link", code: errno)
    }
  }

  private func writeReference(_ commit: String) throws(TensorFileError) {
    let reference = "\(folder)/refs/\(repository.revision)"
    try FileSystem.makeDirectories(FileSystem.parentDirectory(reference))
    let new = "\(folder)/.reference-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
    try OpenFile.create(new).write(commit)
    try FileSystem.move(new, to: reference)
  }

  // MARK: One file

  private func fetch(_ file: HubFile, _ address: String, _ locks: String) throws(AdapterError) {
    let blob = "\(folder)/blobs/\(file.digest.text)"
    if holds(blob, file) { return }
    let lock = try lock("\(locks)/\(file.digest.text).lock", file)
    defer { withExtendedLifetime(lock) {} }
    // Whoever held the lock may have fetched it.
    if holds(blob, file) { return }
    let path = "\(blob).incomplete"
    let part = try asAdapterError { () throws(TensorFileError) in try OpenFile.open(updating: path) }
    var wasBegun = try asAdapterError { () throws(TensorFileError) in try part.byteCount() > 0 }
    while true {
      try request.fill(part, from: address, file)
      let digest = try digest(of: part, file)
      if digest == file.digest.text { break }
      try asAdapterError { () throws(TensorFileError) in try part.truncate(to: 0) }
      // What an earlier run left may not fit: once more, from the start.
      guard wasBegun else { throw failure("'\(file.name)' does not have the digest that the hub says") }
      wasBegun = false
    }
    try asAdapterError { () throws(TensorFileError) in try FileSystem.move(path, to: blob) }
  }

  /// The lock that huggingface_hub takes for the same blob. Waits for whoever holds it.
  private func lock(_ path: String, _ file: HubFile) throws(AdapterError) -> FileLock {
    while true {
      if let lock = try asAdapterError({ () throws(TensorFileError) in try FileLock(path) }) { return lock }
      report(
        HubProgress(
          repository: repository.name, file: file.name, doneBytes: 0, totalBytes: file.byteCount, state: .waiting))
      do throws(Curl.Stop) { try Curl.pause(0.2) } catch { throw .downloadInterrupted(name: repository.name) }
    }
  }

  /// Size and digest, from the headers before any redirect to another host, for a hub whose listing has none.
  private func describe(_ address: String, _ name: String) throws(AdapterError) -> HubFile {
    let headers = try request.headers(address, of: "'\(name)'")
    var etag = headers["x-linked-etag"] ?? headers["etag"] ?? ""
    if etag.hasPrefix("W/") { etag.removeFirst(2) }
    etag = etag.filter { $0 != "\"" }
    guard let digest = HubFile.Digest(etag) else { throw failure("'\(name)' has no digest that can be checked") }
    let size = headers["x-linked-size"] ?? (headers["location"] == nil ? headers["content-length"] : nil)
    guard let count = size.flatMap({ Int($0) }), count >= 0 else { throw failure("'\(name)' has no size") }
    return HubFile(name: name, byteCount: count, digest: digest)
  }

  private func digest(of part: OpenFile, _ file: HubFile) throws(AdapterError) -> String {
    var (sha256, sha1) = (SHA256(), SHA1())
    sha1.add(Array("blob \(file.byteCount)\0".utf8).span.bytes)
    var buffer: [UInt8] = []
    for start in stride(from: 0, to: file.byteCount, by: 1 << 20) {
      if Task.isCancelled { throw .downloadInterrupted(name: repository.name) }
      let range = start..<min(start + 1 << 20, file.byteCount)
      try asAdapterError { () throws(TensorFileError) in try part.read(range, into: &buffer) }
      switch file.digest {
      case .sha256: sha256.add(buffer.span.bytes)
      case .gitBlob: sha1.add(buffer.span.bytes)
      }
    }
    switch file.digest {
    case .sha256: return sha256.finish()
    case .gitBlob: return sha1.finish()
    }
  }

  private func escaped(_ text: String) -> String {
    text.utf8.map { byte in
      let character = Character(UnicodeScalar(byte))
      if character.isLetter || character.isNumber || "-._~/".contains(character) { return String(character) }
      let digits = String(byte, radix: 16, uppercase: true)
      return "%" + (digits.count == 1 ? "0" : "") + digits
    }.joined()
  }
}
