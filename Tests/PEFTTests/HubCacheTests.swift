import Glibc
import PEFT
import TensorFiles
import TestSupport
import Testing

/// Caches that huggingface_hub filled, of which Fixtures/hub/caches.json tells. Made by make_hub_fixtures.py.
@Suite struct HubCacheTests {
  /// A cache put together again.
  private func rebuild(_ name: String) throws -> ScratchDirectory {
    let scratch = try ScratchDirectory()
    let document = try JSONValue(contentsOf: Fixtures.path("hub/caches.json"))
    for member in try #require(document["caches"]?[name]?.members) {
      let path = scratch(member.key)
      try FileSystem.makeDirectories(FileSystem.parentDirectory(path))
      if let target = member.value["link"]?.stringValue {
        #expect(symlink(target, path) == 0)
      } else if let source = member.value["file"]?.stringValue {
        try FileSystem.copy(Fixtures.path("merge/llama-sharded/base/\(source)"), to: path)
      } else {
        try overwrite(path, try #require(member.value["text"]?.stringValue))
      }
    }
    return scratch
  }

  @Test(arguments: [("whole", "main"), ("commit", ModelHub.commit), ("needed", "main"), ("files", "main")])
  func aCacheOfHuggingfaceHubIsUsedAsItIs(name: String, revision: String) throws {
    let scratch = try rebuild(name)
    let repository = try #require(Repository("owner/tiny@\(revision)"))
    let directory = try Hub(cache: scratch.path, isOffline: true).directory(of: repository)
    #expect(directory == scratch("models--owner--tiny/snapshots/\(ModelHub.commit)"))
    let plan = try MergePlan(base: directory, adapter: Fixtures.path("merge/llama-sharded/adapter"))
    #expect(plan.tensorCount == 21)
  }

  /// Both tools wait for each other's downloads: a file's lock has the same place and name, and its group may wait too.
  @Test func locksAreThoseOfHuggingfaceHub() throws {
    let (theirs, scratch) = (try rebuild("whole"), try ScratchDirectory())
    let hub = try ModelHub(directory: Fixtures.path("merge/llama-sharded/base"))
    defer { hub.server.stop() }
    _ = try Hub(cache: scratch.path, endpoint: hub.endpoint).directory(of: #require(Repository("owner/tiny")))
    let place = ".locks/models--owner--tiny"
    let (ours, known) = (try FileSystem.names(in: scratch(place)), try FileSystem.names(in: theirs(place)))
    let blobs = try FileSystem.names(in: scratch("models--owner--tiny/blobs"))
    #expect(Set(ours) == Set(blobs.map { "\($0).lock" }))
    #expect(Set(ours).intersection(known).count > 3)
    for name in ours {
      var (lock, blob) = (stat(), stat())
      #expect(stat(scratch("\(place)/\(name)"), &lock) == 0)
      #expect(stat(scratch("models--owner--tiny/blobs/\(name.dropLast(5))"), &blob) == 0)
      // 0664 and 0666 but for the umask.
      #expect(lock.st_mode & 0o777 == blob.st_mode & 0o664)
    }
  }

  @Test func aSnapshotThatServesIsUsedWithoutTheHubAndThatIsSaid() throws {
    let scratch = try rebuild("needed")
    let repository = try #require(Repository("owner/tiny"))
    // Nothing listens there.
    var hub = Hub(cache: scratch.path, endpoint: "http://127.0.0.1:9")
    hub.limits.attempts = 1
    var states: [HubProgress.State] = []
    let directory = try hub.directory(of: repository) { states.append($0.state) }
    #expect(directory == scratch("models--owner--tiny/snapshots/\(ModelHub.commit)"))
    guard case .usingCache(let reason)? = states.last else {
      Issue.record("\(states)")
      return
    }
    #expect(reason.contains("owner/tiny"))
  }

  @Test(arguments: [
    ("configuration", ["model.safetensors"]),
    ("shard", ["model-00004-of-00004.safetensors", "model.safetensors.index.json"]),
    ("cut-shard", ["model-00002-of-00004.safetensors"]), ("cut-index", ["model.safetensors.index.json"]),
  ])
  func whatHuggingfaceHubDidNotFinishIsNoModel(name: String, missing: [String]) throws {
    let scratch = try rebuild(name)
    for revision in ["main", ModelHub.commit] {
      let repository = try #require(Repository("owner/tiny@\(revision)"))
      let error = #expect(throws: AdapterError.self) {
        try Hub(cache: scratch.path, isOffline: true).directory(of: repository)
      }
      // A snapshot that was cut has no reference yet, or one.
      #expect(error.map { ["notInCache", "incompleteInCache"].contains(caseName($0)) } == true)
      if case .incompleteInCache(_, _, let found)? = error { #expect(Set(missing).isSubset(of: Set(found))) }
    }
  }
}
