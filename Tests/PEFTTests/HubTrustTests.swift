import Glibc
import PEFT
import Synchronization
import TensorFiles
import TestSupport
import Testing

/// What a hub, a network and a user can do to a download.
@Suite struct HubTrustTests {
  private static let base = Fixtures.path("merge/llama-sharded/base")

  private let scratch: ScratchDirectory
  private let folder: String
  private let snapshot: String

  init() throws {
    scratch = try ScratchDirectory()
    folder = scratch("hub/models--owner--tiny")
    snapshot = "\(folder)/snapshots/\(ModelHub.commit)"
  }

  private func client(_ hub: ModelHub, token: String? = nil, _ change: (inout HubLimits) -> Void = { _ in }) -> Hub {
    var client = Hub(cache: scratch("hub"), endpoint: hub.endpoint, token: token)
    client.limits.pauseSeconds = 0.01
    change(&client.limits)
    return client
  }

  private var offline: Hub { Hub(cache: scratch("hub"), isOffline: true) }

  private func repository(_ revision: String = "main") throws -> Repository {
    try #require(Repository("owner/tiny@\(revision)"))
  }

  private func failure(_ hub: Hub, _ revision: String = "main") throws -> AdapterError {
    try #require(throws: AdapterError.self) { try hub.directory(of: try repository(revision)) }
  }

  /// Half a file, then nothing more, said to be whole.
  private static func half(_ honest: LocalServer.Response, _ ending: LocalServer.Ending = .close)
    -> LocalServer.Response
  {
    LocalServer.Response(
      honest.status, headers: honest.headers + ["Content-Length: \(honest.body.count)"],
      body: Array(honest.body[..<(honest.body.count / 2)]),
      ending: ending)
  }

  /// The files in their places, as huggingface_hub puts them.
  private func fillCache(_ names: [String]) throws {
    for directory in [snapshot, "\(folder)/blobs", "\(folder)/refs"] { try FileSystem.makeDirectories(directory) }
    for name in names {
      let body = try contents("\(Self.base)/\(name)")
      let digest = ModelHub.digest(name, body)
      try overwrite("\(folder)/blobs/\(digest)", body)
      #expect(symlink("../../blobs/\(digest)", "\(snapshot)/\(name)") == 0)
    }
    try overwrite("\(folder)/refs/main", ModelHub.commit)
  }

  /// The list of files that huggingface_hub 1 and later write beside the snapshots.
  private func writeListing(_ names: [String]) throws {
    try FileSystem.makeDirectories("\(folder)/trees")
    let files = try names.map { name in
      let body = try contents("\(Self.base)/\(name)")
      let digest = ModelHub.digest(name, body)
      return "\"\(name)\": {\"size\": \(body.count), \"blob_id\": \"\(ModelHub.gitDigest(body))\""
        + (digest.count == 64 ? ", \"lfs_sha256\": \"\(digest)\", \"lfs_size\": \(body.count)}" : "}")
    }
    try overwrite(
      "\(folder)/trees/\(ModelHub.commit).json",
      "{\"format_version\": 1, \"files\": {\(files.joined(separator: ", "))}}")
  }

  private var names: [String] { (try? FileSystem.names(in: Self.base)) ?? [] }

  @Test(arguments: ["main", ModelHub.commit])
  func aDownloadThatWasCutIsNoModelAndGoesOnWhereItWas(revision: String) throws {
    let isCut = Mutex(true)
    let hub = try ModelHub(directory: Self.base) { path, _, honest in
      path.hasSuffix("00004-of-00004.safetensors") && isCut.withLock { $0 } ? Self.half(honest) : nil
    }
    defer { hub.server.stop() }
    #expect(caseName(try failure(client(hub) { $0.attempts = 1 }, revision)) == "download")
    #expect(["notInCache", "incompleteInCache"].contains(caseName(try failure(offline, revision))))
    isCut.withLock { $0 = false }
    let directory = try client(hub).directory(of: try repository(revision))
    #expect(try FileSystem.names(in: directory) == names)
    for name in names { #expect(try contents("\(directory)/\(name)") == contents("\(Self.base)/\(name)")) }
    let last = try #require(names.last { $0.hasSuffix(".safetensors") })
    let half = try contents("\(Self.base)/\(last)").count / 2
    #expect(hub.fetches(of: last).map { $0.headers["range"] } == [nil, "bytes=\(half)-"])
    #expect(try offline.directory(of: try repository(revision)) == directory)
  }

  @Test func whatHuggingfaceHubFetchedIsUsedAsItIs() throws {
    try fillCache(names)
    #expect(try offline.directory(of: try repository()) == snapshot)
    #expect(try offline.directory(of: try repository(ModelHub.commit)) == snapshot)
    try writeListing(names)
    #expect(try offline.directory(of: try repository()) == snapshot)
    // Online as well: nothing is asked.
    #expect(try Hub(cache: scratch("hub"), endpoint: "http://127.0.0.1:1").directory(of: try repository()) == snapshot)
  }

  @Test(arguments: [true, false])
  func aSnapshotThatLacksAFileIsNotWhole(hasListing: Bool) throws {
    // A shard; the index, of which a shard's name tells; the configuration.
    for (index, missing) in names.enumerated() where missing != "generation_config.json" {
      try? FileSystem.remove(folder)
      try fillCache(names.filter { $0 != missing })
      if hasListing { try writeListing(names) }
      let error = try failure(offline, index % 2 == 0 ? "main" : ModelHub.commit)
      #expect(caseName(error) == "incompleteInCache" && error.description.contains(missing), "\(error)")
      let hub = try ModelHub(directory: Self.base)
      defer { hub.server.stop() }
      #expect(try client(hub).directory(of: try repository()) == snapshot)
      #expect(try contents("\(snapshot)/\(missing)") == contents("\(Self.base)/\(missing)"))
      #expect(names.filter { !hub.fetches(of: $0).isEmpty } == [missing])
    }
  }

  @Test func aFileOfAnotherSizeThanListedIsNotThere() throws {
    try fillCache(names)
    try writeListing(names)
    let name = try #require(names.last { $0.hasSuffix(".safetensors") })
    let body = try contents("\(Self.base)/\(name)")
    try overwrite("\(folder)/blobs/\(ModelHub.digest(name, body))", Array(body.dropLast()))
    #expect(try failure(offline).description.contains(name))
    let hub = try ModelHub(directory: Self.base)
    defer { hub.server.stop() }
    #expect(try contents("\(client(hub).directory(of: try repository()))/\(name)") == body)
  }

  /// Transformers fetches what it needs; the list beside it names all files of the commit.
  @Test func whatTransformersLeftOutIsFetchedIfTheHubIsThere() throws {
    let missing = "generation_config.json"
    try fillCache(names.filter { $0 != missing })
    try writeListing(names)
    #expect(try offline.directory(of: try repository()) == snapshot)
    #expect(try Hub(cache: scratch("hub"), endpoint: "http://127.0.0.1:1").directory(of: try repository()) == snapshot)
    let hub = try ModelHub(directory: Self.base)
    defer { hub.server.stop() }
    #expect(try client(hub).directory(of: try repository()) == snapshot)
    #expect(names.filter { !hub.fetches(of: $0).isEmpty } == [missing])
    #expect(FileSystem.kind("\(snapshot)/\(missing)") == .file)
  }

  @Test func aLinkWithoutItsBlobIsAFileThatIsNotThere() throws {
    try fillCache(names)
    let shard = try #require(names.last { $0.hasSuffix(".safetensors") })
    try FileSystem.remove("\(folder)/blobs/\(ModelHub.digest(shard, contents("\(Self.base)/\(shard)")))")
    #expect(try failure(offline).description.contains(shard))
  }

  @Test func twoRunsAtOnceFetchEachFileOnce() async throws {
    let hub = try ModelHub(directory: Self.base)
    defer { hub.server.stop() }
    let (client, repository) = (client(hub), try repository())
    let directories = try await withThrowingTaskGroup(of: String.self) { group in
      for _ in 0..<4 { group.addTask { try client.directory(of: repository) } }
      return try await group.reduce(into: Set<String>()) { $0.insert($1) }
    }
    #expect(directories == [snapshot])
    for name in names { #expect(hub.fetches(of: name).count == 1, "\(name)") }
  }

  @Test func aPartThatAnotherProgramWritesIsWaitedFor() async throws {
    let hub = try ModelHub(directory: Self.base)
    defer { hub.server.stop() }
    let name = "config.json"
    let body = try contents("\(Self.base)/\(name)")
    let locks = scratch("hub/.locks/models--owner--tiny")
    try FileSystem.makeDirectories(locks)
    var lock = try FileLock("\(locks)/\(ModelHub.gitDigest(body)).lock")
    #expect(lock != nil)
    let (client, repository) = (client(hub), try repository())
    let (states, reported) = AsyncStream.makeStream(of: HubProgress.State.self)
    let work = Task.detached { try client.directory(of: repository) { reported.yield($0.state) } }
    for await state in states where state == .waiting { break }
    #expect(hub.fetches(of: name).isEmpty)
    // The other is done.
    try overwrite("\(folder)/blobs/\(ModelHub.gitDigest(body))", body)
    lock = nil
    #expect(try await work.value == snapshot)
    #expect(hub.fetches(of: name).isEmpty)
  }

  @Test func aCancelledDownloadEndsAtOnceWithItsCurlAndKeepsWhatIsThere() async throws {
    let hub = try ModelHub(directory: Self.base) { path, count, honest in
      path.hasSuffix("00001-of-00004.safetensors") && count == 0 ? Self.half(honest, .silence) : nil
    }
    defer { hub.server.stop() }
    let (client, repository) = (client(hub), try repository())
    let name = try #require(names.first { $0.hasSuffix(".safetensors") })
    let body = try contents("\(Self.base)/\(name)")
    let part = "\(folder)/blobs/\(ModelHub.digest(name, body)).incomplete"
    let work = Task.detached { try client.directory(of: repository) }
    once {
      (try? contents(part).count) == body.count / 2
    } do: {
      work.cancel()
    }
    let error = await #expect(throws: AdapterError.self) { try await work.value }
    #expect(error.map(caseName) == "downloadInterrupted")
    #expect(comes { hub.server.departures == 1 })
    #expect(try contents(part).count == body.count / 2)
    #expect(try client.directory(of: repository) == snapshot)
    #expect(hub.fetches(of: name).last?.headers["range"] == "bytes=\(body.count / 2)-")
  }

  @Test func aLostConnectionGoesOnWhereItWas() throws {
    let hub = try ModelHub(directory: Self.base) { path, count, honest in
      guard path.hasSuffix(".safetensors"), count < 3 else { return nil }
      return LocalServer.Response(
        honest.status, headers: honest.headers + ["Content-Length: \(honest.body.count)"],
        body: Array(honest.body[..<100]))
    }
    defer { hub.server.stop() }
    let directory = try client(hub).directory(of: try repository())
    let name = try #require(names.first { $0.hasSuffix(".safetensors") })
    #expect(try contents("\(directory)/\(name)") == contents("\(Self.base)/\(name)"))
    #expect(
      hub.fetches(of: name).map { $0.headers["range"] } == [nil, "bytes=100-", "bytes=200-", "bytes=300-"])
  }

  @Test func aServerThatSendsNoPartsIsAskedForTheWhole() throws {
    let hub = try ModelHub(directory: Self.base) { path, count, honest in
      guard path.hasSuffix(".safetensors") else { return nil }
      return count == 0
        ? Self.half(honest)
        : LocalServer.Response("200 OK", body: try! contents("\(Self.base)/\(FileSystem.lastComponent(path))"))
    }
    defer { hub.server.stop() }
    let directory = try client(hub).directory(of: try repository())
    for name in names { #expect(try contents("\(directory)/\(name)") == contents("\(Self.base)/\(name)")) }
  }

  @Test func aHubThatNeverEndsIsLeft() throws {
    let chunk = [UInt8](repeating: 0x20, count: 1 << 16)
    let listing = try ModelHub(directory: Self.base) { path, _, _ in
      path.hasPrefix("/api/")
        ? LocalServer.Response("200 OK", headers: ["Content-Length: \(Int.max)"], body: chunk, ending: .endless) : nil
    }
    defer { listing.server.stop() }
    #expect(try failure(client(listing) { $0.listingBytes = 1 << 20 }).description.contains("1048576 bytes"))
    let body = try ModelHub(directory: Self.base) { path, _, _ in
      path.hasSuffix(".safetensors")
        ? LocalServer.Response("200 OK", headers: ["Content-Length: \(Int.max)"], body: chunk, ending: .endless) : nil
    }
    defer { body.server.stop() }
    #expect(try failure(client(body)).description.contains("is longer than"))
    #expect(caseName(try failure(offline)) != "download")
  }

  @Test(arguments: ["/api/", ".safetensors"])
  func aHubThatFallsSilentIsLeft(part: String) throws {
    let hub = try ModelHub(directory: Self.base) { path, _, honest in
      path.contains(part) ? Self.half(honest, .silence) : nil
    }
    defer { hub.server.stop() }
    let error = try failure(
      client(hub) {
        ($0.stallSeconds, $0.listingSeconds, $0.attempts) = (0.3, 0.3, 2)
      })
    #expect(error.description.contains("does not come in time"), "\(error)")
  }

  @Test func aHubThatAsksToWaitIsWaitedForWithinBounds() throws {
    let hub = try ModelHub(directory: Self.base) { path, count, _ in
      count == 0 ? LocalServer.Response("503 Service Unavailable", headers: ["Retry-After: 0"]) : nil
    }
    defer { hub.server.stop() }
    let pauses = Mutex<[HubProgress.State]>([])
    let directory = try client(hub).directory(of: try repository()) { progress in
      if case .retrying = progress.state { pauses.withLock { $0.append(progress.state) } }
    }
    #expect(directory == snapshot)
    #expect(pauses.withLock { $0.count } == names.count + 1)
    #expect(pauses.withLock { $0.first } == .retrying(seconds: 0, reason: "the hub answers 503"))
    let busy = try ModelHub(directory: Self.base) { _, _, _ in
      LocalServer.Response("429 Too Many Requests", headers: ["Retry-After: 3600"])
    }
    defer { busy.server.stop() }
    try FileSystem.remove(scratch("hub"))
    let error = try failure(client(busy))
    #expect(caseName(error) == "hubBusy" && error.description.contains("3600 s"))
    #expect(busy.server.requests.count == 1)
  }

  @Test(arguments: ["config.json", "model-00001-of-00004.safetensors"])
  func aFileWithAnotherDigestIsNeverNamed(name: String) throws {
    let hub = try ModelHub(directory: Self.base) { path, _, honest in
      guard path.hasSuffix(name) else { return nil }
      var body = honest.body
      body[body.count / 2] ^= 1
      return LocalServer.Response("200 OK", body: body)
    }
    defer { hub.server.stop() }
    #expect(try failure(client(hub)).description.contains("'\(name)' does not have the digest"))
    let digest = ModelHub.digest(name, try contents("\(Self.base)/\(name)"))
    #expect(FileSystem.kind("\(folder)/blobs/\(digest)") == nil)
    #expect(FileSystem.kind("\(snapshot)/\(name)") == nil)
    #expect(try FileSystem.names(in: "\(folder)/refs").isEmpty)
  }

  @Test(arguments: [
    ("401 Unauthorized", ""), ("401 Unauthorized", "GatedRepo"), ("403 Forbidden", "GatedRepo"), ("403 Forbidden", ""),
    ("404 Not Found", ""), ("404 Not Found", "RepoNotFound"), ("404 Not Found", "RevisionNotFound"),
  ])
  func aRefusalSaysWhatHelps(status: String, code: String) throws {
    // Gated models are listed for everyone; their files are not.
    let hub = try ModelHub(directory: Self.base) { path, _, _ in
      path.hasPrefix("/api/") && code == "GatedRepo"
        ? nil : LocalServer.Response(status, headers: code.isEmpty ? [] : ["X-Error-Code: \(code)"])
    }
    defer { hub.server.stop() }
    for token in [nil, "hf_secret"] {
      let error = try failure(client(hub, token: token))
      #expect(caseName(error) == "hubRefused")
      let text = error.description
      #expect(
        text.contains(status.prefix(3)) && text.contains("\(hub.endpoint)/owner/tiny") && !text.contains("hf_secret"))
      if code == "RevisionNotFound" {
        #expect(text.contains("no revision 'main'"))
      } else {
        #expect(text.contains("HF_TOKEN") && text.contains("licence"))
        #expect(text.contains(token == nil ? "No token was sent" : "must be valid"))
      }
    }
  }

  @Test func aBlobOfAnotherKindOfDigestIsRefused() throws {
    let hub = ModelHub([]) { path, _, _ in
      path.hasPrefix("/api/")
        ? LocalServer.Response(
          "200 OK",
          body: Array("{\"sha\": \"\(ModelHub.commit)\", \"siblings\": [{\"rfilename\": \"model.safetensors\"}]}".utf8))
        : LocalServer.Response("200 OK", headers: ["ETag: \"../../../etc/x\""], body: [1])
    }
    defer { hub.server.stop() }
    #expect(try failure(client(hub)).description.contains("no digest that can be checked"))
  }
}
