import Glibc
import PEFT
import TensorFiles
import TestSupport
import Testing

/// What is copied from a model's directory beside its weights.
@Suite struct SideFileTests {
  private let scratch: ScratchDirectory

  init() throws {
    scratch = try ScratchDirectory()
    for part in ["base", "adapter"] {
      try copyDirectory(Fixtures.path("merge/llama-f32-qv/\(part)"), to: scratch(part))
    }
    for name in try FileSystem.names(in: scratch("base")) where !["config.json", Checkpoint.singleName].contains(name) {
      try FileSystem.remove(scratch("base/\(name)"))
    }
    try overwrite(scratch("secret"), "secret")
  }

  @discardableResult private func merge() async throws -> [String] {
    let plan = try MergePlan(base: scratch("base"), adapter: scratch("adapter"))
    try await Merger(plan).run(to: scratch("out"))
    return plan.notes
  }

  private func link(_ target: String, _ path: String) { #expect(symlink(target, scratch(path)) == 0) }

  @Test(arguments: [
    "base/NOTICE", "base/config.json", "base/sub/LICENSE", "base/docs", "adapter/tokenizer.json",
    "adapter/adapter_config.json", "adapter/additional_chat_templates",
  ])
  func aLinkOutOfTheModelIsRefused(place: String) async throws {
    let target = place.hasSuffix("docs") || place.hasSuffix("templates") ? scratch("elsewhere") : scratch("secret")
    try FileSystem.makeDirectory(scratch("elsewhere"))
    try overwrite(scratch("elsewhere/a.jinja"), "secret")
    try FileSystem.makeDirectories(FileSystem.parentDirectory(scratch(place)))
    try? FileSystem.remove(scratch(place))
    link(target, place)
    let error = await #expect(throws: AdapterError.self) { try await merge() }
    #expect(error.map(caseName) == "linkOutside", "\(String(describing: error))")
    #expect(error?.description.contains(scratch(place)) == true)
    #expect(FileSystem.kind(scratch("out")) == nil)
  }

  @Test func aTraversingRelativeLinkIsRefusedToo() async throws {
    link("sub/../../secret", "base/NOTICE")
    try FileSystem.makeDirectory(scratch("base/sub"))
    let error = await #expect(throws: AdapterError.self) { try await merge() }
    #expect(error.map(caseName) == "linkOutside")
  }

  @Test func linksThatStayInTheModelAreCopiedAsFilesAndCirclesDoNotMultiply() async throws {
    try FileSystem.makeDirectories(scratch("base/a/b"))
    try overwrite(scratch("base/a/LICENSE"), "text")
    link("a/LICENSE", "base/NOTICE")
    link(".", "base/loop")
    link("../..", "base/a/b/up")
    link("a", "base/twin")
    link("self", "base/self")
    link("nowhere", "base/dangling")
    let notes = try await merge()
    #expect(
      try FileSystem.names(in: scratch("out")) == ["NOTICE", "a", "config.json", "model.safetensors"])
    #expect(try FileSystem.names(in: scratch("out/a")) == ["LICENSE"])
    var status = stat()
    #expect(lstat(scratch("out/NOTICE"), &status) == 0 && status.st_mode & S_IFMT == S_IFREG)
    #expect(try FileSystem.text(scratch("out/NOTICE")) == "text")
    for name in ["self", "dangling"] {
      #expect(notes.contains { $0.contains("/\(name) is a link that leads nowhere") })
    }
  }

  /// A pipe that is opened for reading has a reader: only then can one be opened for writing without waiting.
  @Test func pipesSocketsAndDevicesAreNeverOpened() async throws {
    #expect(mkfifo(scratch("base/pipe"), 0o600) == 0)
    #expect(mkfifo(scratch("adapter/tokenizer.json"), 0o600) == 0)
    let socket = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(socket) }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let path = scratch("base/socket")
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
    let bound = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(socket, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    #expect(bound == 0)
    let notes = try await merge()
    #expect(try FileSystem.names(in: scratch("out")) == ["config.json", "model.safetensors"])
    for name in ["base/pipe", "base/socket", "adapter/tokenizer.json"] {
      #expect(notes.contains { $0.hasPrefix(scratch(name)) }, "\(name)")
    }
    let error = #expect(throws: TensorFileError.self) { try OpenFile.open(reading: scratch("base/pipe")) }
    #expect(error.map(caseName) == "notAFile")
  }

  @Test func namesAreCopiedByTheirBytesOrRefused() async throws {
    // The same letter, once as one code point and once as two.
    for name in ["\u{E9}.txt", "e\u{301}.txt", "\u{301}x.md", " "] { try overwrite(scratch("base/\(name)"), name) }
    try await merge()
    let names = try FileSystem.names(in: scratch("out"))
    #expect(names.count == 6)
    for name in names where !name.hasSuffix(".json") && !name.hasSuffix(".safetensors") {
      #expect(try contents(scratch("out/\(name)")) == Array(name.utf8))
    }
    try FileSystem.remove(scratch("out"))
    let odd = Array(scratch("base/x").utf8) + [0xFF, 0]
    close(open(odd.map { CChar(bitPattern: $0) }, O_CREAT | O_WRONLY, 0o600))
    let error = await #expect(throws: AdapterError.self) { try await merge() }
    #expect(error.map(caseName) == "nameNotUTF8")
  }

  @Test func aSnapshotOfTheCacheIsCopiedThroughItsLinks() async throws {
    let repository = scratch("models--o--m")
    for directory in ["\(repository)/blobs", "\(repository)/snapshots/c"] { try FileSystem.makeDirectories(directory) }
    try overwrite(scratch("base/tokenizer.json"), "{}")
    for (index, name) in try FileSystem.names(in: scratch("base")).enumerated() {
      try FileSystem.copy(scratch("base/\(name)"), to: "\(repository)/blobs/\(index)")
      #expect(symlink("../../blobs/\(index)", "\(repository)/snapshots/c/\(name)") == 0)
    }
    try await Merger(MergePlan(base: "\(repository)/snapshots/c", adapter: scratch("adapter"))).run(to: scratch("out"))
    #expect(try FileSystem.names(in: scratch("out")) == ["config.json", "model.safetensors", "tokenizer.json"])
    // A link of the snapshot that leads elsewhere in the cache is none of its blobs.
    try overwrite("\(repository)/refs", "secret")
    #expect(symlink("../../refs", "\(repository)/snapshots/c/NOTICE") == 0)
    #expect(throws: AdapterError.self) { try MergePlan(base: "\(repository)/snapshots/c", adapter: scratch("adapter")) }
  }
}
