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
