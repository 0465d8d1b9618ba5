import PEFT
import TensorFiles
import TestSupport
import Testing

/// Adapters saved again, of every method.
@Suite struct StoredAdapterTests {
  private static let all = ["merge", "methods", "variants"].flatMap { group in
    ((try? FileSystem.names(in: Fixtures.path(group))) ?? []).map { "\(group)/\($0)" }
  }

  /// Not BONE's, which are written as MISS, nor those that were made from another adapter by hand.
  @Test(
    arguments: all.filter {
      !$0.contains("/bone") && $0 != "variants/qwen3-moe-former-layout" && $0 != "variants/mixtral-former-adapter"
    })
  func bothFilesAreThoseThatPEFTWrote(name: String) throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("\(name)/adapter")
    try StoredAdapter(directory: root).save(to: scratch("out"))
    for file in [PeftConfig.fileName, Adapter.weightsName] {
      #expect(try bytes(scratch("out/\(file)")) == bytes("\(root)/\(file)"), "\(file)")
    }
    #expect(try FileSystem.text(scratch("out/README.md")).contains("library_name: peft"))
  }

  @Test(arguments: ["bone", "bone-bat"])
  func boneIsSavedAsMiSSAndMergesTheSame(name: String) async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("methods/\(name)")
    try StoredAdapter(directory: "\(root)/adapter").save(to: scratch("miss"))
    let config = try PeftConfig.load(directory: scratch("miss"))
    #expect(config.peftType.rawValue == "MISS" && config.unknownKeys.isEmpty)
    try await Merger(MergePlan(base: "\(root)/base", adapter: "\(root)/adapter")).run(to: scratch("a"))
    try await Merger(MergePlan(base: "\(root)/base", adapter: scratch("miss"))).run(to: scratch("b"))
    let difference = try CheckpointDifference(Checkpoint(path: scratch("a")), Checkpoint(path: scratch("b")))
    #expect(difference.tensors.allSatisfy { $0.finding == .identical })
  }

  @Test func wrappersAreLeftOutOfTheNames() throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv/adapter")
    try FileSystem.makeDirectory(scratch("wrapped"))
    try FileSystem.copy("\(root)/adapter_config.json", to: scratch("wrapped/adapter_config.json"))
    try renameTensors("\(root)/adapter_model.safetensors", to: scratch("wrapped/adapter_model.safetensors")) {
      "_orig_mod." + $0
    }
    try StoredAdapter(directory: scratch("wrapped")).save(to: scratch("out"))
    #expect(
      try bytes(scratch("out/adapter_model.safetensors")) == bytes("\(root)/adapter_model.safetensors"))
  }

  private func bytes(_ path: String) throws -> [UInt8] {
    let file = try OpenFile.open(reading: path)
    return try file.bytes(0..<file.byteCount())
  }
}
