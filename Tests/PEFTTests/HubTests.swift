import PEFT
import TensorFiles
import TestSupport
import Testing

@Suite struct HubTests {
  private static let commit = String(repeating: "ab", count: 20)

  private static func digest(_ bytes: [UInt8]) -> String {
    var hash = SHA256()
    hash.add(bytes.span.bytes)
    return hash.finish()
  }

  /// A hub with one model, whose weights lie on another host; and that host.
  private static func serve(
    damaged: Bool = false
  ) throws -> (hub: LocalServer, store: LocalServer, config: [UInt8], weights: [UInt8]) {
    let root = Fixtures.path("merge/llama-f32-qv/base")
    let (config, weights) = (try contents("\(root)/config.json"), try contents("\(root)/model.safetensors"))
    let store = LocalServer { request in
      var body = weights
      if damaged { body[body.count - 1] ^= 1 }
      guard let range = request.headers["range"], let start = Int(range.dropFirst(6).dropLast()) else {
        return LocalServer.Response("200 OK", body: body)
      }
      return LocalServer.Response(
        "206 Partial Content", headers: ["Content-Range: bytes \(start)-\(body.count - 1)/\(body.count)"],
        body: Array(body[start...]))
    }
    let (digest, port) = (Self.digest(weights), store.port)
    let hub = LocalServer { request in
      switch request.path {
      case "/api/models/owner/tiny/revision/main?blobs=true":
        let files = ["config.json", "model.safetensors", "pytorch_model.bin", "../evil.json", ".gitattributes"]
        let list = files.map { "{\"rfilename\": \"\($0)\"}" }.joined(separator: ", ")
        return LocalServer.Response("200 OK", body: Array("{\"sha\": \"\(commit)\", \"siblings\": [\(list)]}".utf8))
      case "/owner/tiny/resolve/\(commit)/config.json":
        return LocalServer.Response("200 OK", headers: ["ETag: \"\(ModelHub.gitDigest(config))\""], body: config)
      case "/owner/tiny/resolve/\(commit)/model.safetensors":
        // Another name for the same machine is another host.
        return LocalServer.Response(
          "302 Found",
          headers: [
            "X-Linked-ETag: \"\(digest)\"", "X-Linked-Size: \(weights.count)",
            "Location: http://localhost:\(port)/blob",
          ])
      default: return LocalServer.Response("404 Not Found")
      }
    }
    return (hub, store, config, weights)
  }

  @Test func aRepositoryIsFetchedOnceAndMergesAsADirectoryDoes() throws {
    let scratch = try ScratchDirectory()
    let (server, store, config, weights) = try Self.serve()
    defer {
      server.stop()
      store.stop()
    }
    let hub = Hub(cache: scratch("hub"), endpoint: "http://127.0.0.1:\(server.port)", token: "hf_secret")
    let repository = try #require(Repository("owner/tiny"))
    let directory = try hub.directory(of: repository)
    #expect(directory == scratch("hub/models--owner--tiny/snapshots/\(Self.commit)"))
    #expect(try FileSystem.names(in: directory) == ["config.json", "model.safetensors"])
    #expect(try contents("\(directory)/config.json") == config && contents("\(directory)/model.safetensors") == weights)
    #expect(try FileSystem.text(scratch("hub/models--owner--tiny/refs/main")) == Self.commit)
    // The token goes to the hub, and not to where it redirects.
    #expect(server.requests.allSatisfy { $0.headers["authorization"] == "Bearer hf_secret" })
    #expect(!store.requests.isEmpty && store.requests.allSatisfy { $0.headers["authorization"] == nil })
    let asked = server.requests.count
    let offline = Hub(cache: scratch("hub"), isOffline: true)
    #expect(try offline.directory(of: repository) == directory)
    #expect(server.requests.count == asked)
    let adapter = Fixtures.path("merge/llama-f32-qv/adapter")
    #expect(try MergePlan(base: directory, adapter: adapter).mergedCount == 4)
  }

  @Test func aFileThatWasBegunIsContinued() throws {
    let scratch = try ScratchDirectory()
    let (server, store, _, weights) = try Self.serve()
    defer {
      server.stop()
      store.stop()
    }
    let blobs = scratch("hub/models--owner--tiny/blobs")
    try FileSystem.makeDirectories(blobs)
    try overwrite("\(blobs)/\(Self.digest(weights)).incomplete", Array(weights[..<1000]))
    let hub = Hub(cache: scratch("hub"), endpoint: "http://127.0.0.1:\(server.port)")
    let directory = try hub.directory(of: try #require(Repository("owner/tiny")))
    #expect(try contents("\(directory)/model.safetensors") == weights)
    #expect(store.requests.contains { $0.headers["range"] == "bytes=1000-" })
  }

  @Test func aFileWithAnotherDigestIsNotKept() throws {
    let scratch = try ScratchDirectory()
    let (server, store, _, _) = try Self.serve(damaged: true)
    defer {
      server.stop()
      store.stop()
    }
    let hub = Hub(cache: scratch("hub"), endpoint: "http://127.0.0.1:\(server.port)", token: "hf_secret")
    let repository = try #require(Repository("owner/tiny"))
    let error = #expect(throws: AdapterError.self) { try hub.directory(of: repository) }
    #expect(error.map(caseName) == "download" && error?.description.contains("hf_secret") == false)
    #expect(throws: AdapterError.self) { try Hub(cache: scratch("hub"), isOffline: true).directory(of: repository) }
  }

  @Test func whatIsNotThereIsSaid() throws {
    let scratch = try ScratchDirectory()
    let (server, store, _, _) = try Self.serve()
    defer {
      server.stop()
      store.stop()
    }
    let hub = Hub(cache: scratch("hub"), endpoint: "http://127.0.0.1:\(server.port)")
    let missing = #expect(throws: AdapterError.self) { try hub.directory(of: try #require(Repository("owner/none"))) }
    #expect(missing.map(caseName) == "hubRefused")
    let offline = #expect(throws: AdapterError.self) {
      try Hub(cache: scratch("hub"), isOffline: true).directory(of: try #require(Repository("owner/tiny@v1")))
    }
    #expect(offline.map(caseName) == "notInCache")
  }

  @Test(arguments: [
    "", "/tmp/x", "./x", "a/b/c", "..", "a/..", "-a/b", "a/b.", "a b/c", "a/b@", "plain.json", "a.safetensors",
    "a/b.git", "a--b",
  ])
  func aPathIsNoRepository(word: String) { #expect(Repository(word) == nil) }

  /// What huggingface_hub's `parse_hf_uri` says of them; made by make_address_fixtures.py.
  @Test func addressesAreReadAsHuggingfaceHubReadsThem() throws {
    let cases = try #require(JSONValue(contentsOf: Fixtures.path("hub/addresses.json"))["cases"]?.elements)
    #expect(cases.count > 50)
    for item in cases {
      let address = try #require(item["address"]?.stringValue)
      let found = try? Repository(address: address)
      guard let expected = item["model"], expected != .null else {
        #expect(found == nil, "\(address)")
        continue
      }
      #expect(found?.name == expected["name"]?.stringValue, "\(address)")
      #expect(found?.revision == (expected["revision"]?.stringValue ?? "main"), "\(address)")
      #expect(found?.path == expected["path"]?.stringValue, "\(address)")
    }
  }

  @Test(arguments: [
    ("gpt2", "gpt2", "main", ""), ("gpt2@v1", "gpt2", "v1", ""), ("hf://gpt2", "gpt2", "main", ""),
    ("hf://gpt2@refs/pr/3/sub", "gpt2", "refs/pr/3", "sub"), ("owner/name@refs/pr/3", "owner/name", "refs/pr/3", ""),
    ("http://127.0.0.1:9/hub/owner/name/tree/v1", "owner/name", "v1", ""),
  ])
  func aNameAloneAndAnotherHubsPageAreRepositories(word: String, name: String, revision: String, path: String) throws {
    let found = try Repository(address: word, endpoint: "http://127.0.0.1:9/hub")
    #expect(found?.name == name && found?.revision == revision && found?.path == path)
  }

  @Test(arguments: [("sub/deep", "sub/deep"), ("sub/deep/adapter_model.safetensors", "sub/deep")])
  func aDirectoryOrAFileWithinARepositoryIsFetchedWithItsNeighbours(path: String, folder: String) throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv/adapter")
    let hub = ModelHub(
      try ["adapter_config.json", "adapter_model.safetensors"].flatMap { name in
        [(name: "sub/deep/\(name)", body: try contents("\(root)/\(name)"))]
      } + [(name: "model.safetensors", body: [1, 2, 3]), (name: "sub/config.json", body: [4])])
    defer { hub.server.stop() }
    let online = Hub(cache: scratch("hub"), endpoint: hub.endpoint)
    let repository = try #require(try Repository(address: "hf://owner/tiny/\(path)"))
    let found = try online.directory(of: repository)
    #expect(found == scratch("hub/models--owner--tiny/snapshots/\(Self.commit)/\(path)"))
    let directory = scratch("hub/models--owner--tiny/snapshots/\(Self.commit)/\(folder)")
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
      #expect(try contents("\(directory)/\(name)") == contents("\(root)/\(name)"))
    }
    // Its files are links to blobs of the repository, two levels further up than usual.
    #expect(try StoredAdapter(directory: directory).config.rank == 4)
    #expect(hub.fetches(of: "model.safetensors").isEmpty && hub.fetches(of: "sub/config.json").isEmpty)
    #expect(try Hub(cache: scratch("hub"), isOffline: true).directory(of: repository) == found)
    #expect(throws: AdapterError.self) {
      try online.directory(of: #require(try Repository(address: "hf://owner/tiny/none")))
    }
  }

  @Test func theEnvironmentSaysWhereTheCacheIs() {
    let home = Hub(environment: { ["HOME": "/h"][$0] })
    #expect(home.cache == "/h/.cache/huggingface/hub" && !home.isOffline)
    #expect(Hub(environment: { ["HF_HOME": "/x"][$0] }).cache == "/x/hub")
    #expect(Hub(environment: { ["HF_HOME": "/x", "HF_HUB_CACHE": "/y"][$0] }).cache == "/y")
    #expect(Hub(environment: { ["HF_HOME": "/x", "HUGGINGFACE_HUB_CACHE": "/old"][$0] }).cache == "/old")
    #expect(Hub(environment: { ["HF_HUB_CACHE": "/y", "HUGGINGFACE_HUB_CACHE": "/old"][$0] }).cache == "/y")
    #expect(Hub(environment: { ["HOME": "/h", "HF_HUB_CACHE": "~/c", "HF_HOME": "/x"][$0] }).cache == "/h/c")
    #expect(
      Hub(environment: { ["HOME": "/h", "HF_HOME": "$DATA/${KIND}/$NONE", "DATA": "/d", "KIND": "k"][$0] }).cache
        == "/d/k/$NONE/hub")
    #expect(Hub(environment: { ["HOME": "/h", "XDG_CACHE_HOME": "~/c"][$0] }).cache == "/h/c/huggingface/hub")
    #expect(Hub(environment: { ["HF_HUB_OFFLINE": "1"][$0] }).isOffline)
    #expect(Hub(environment: { ["TRANSFORMERS_OFFLINE": "yes"][$0] }).isOffline)
    #expect(!Hub(environment: { ["TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "0"][$0] }).isOffline)
    #expect(Hub(environment: { ["HF_ENDPOINT": "http://m/"][$0] }).endpoint == "http://m")
  }
}
