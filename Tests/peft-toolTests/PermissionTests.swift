import Foundation
import TensorFiles
import TestSupport
import Testing

/// Modes of what is written: those of the source, as far as the umask lets, as with `cp -r`.
@Suite struct PermissionTests {
  private let scratch: ScratchDirectory

  init() throws {
    scratch = try ScratchDirectory()
    for part in ["base", "adapter"] {
      try copyDirectory(Fixtures.path("merge/llama-sharded/\(part)"), to: scratch(part))
    }
    try overwrite(scratch("base/run.txt"), "text")
    try FileSystem.makeDirectory(scratch("base/docs"))
    for name in try FileSystem.names(in: scratch("base")) { #expect(chmod(scratch("base/\(name)"), 0o644) == 0) }
    #expect(chmod(scratch("base/docs"), 0o755) == 0 && chmod(scratch("base"), 0o755) == 0)
  }

  /// Runs a shell's line in the scratch directory, `peft-tool` being the built one.
  private func shell(_ line: String) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/bin/bash")
    process.arguments = ["-euc", line]
    process.currentDirectoryURL = URL(fileURLWithPath: scratch.path)
    let path = built("peft-tool").deletingLastPathComponent().path
    process.environment = ProcessInfo.processInfo.environment.merging(["PATH": "\(path):/usr/bin:/bin"]) { $1 }
    process.standardOutput = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
    #expect(process.terminationStatus == 0, "\(line)")
  }

  private func mode(_ path: String) -> String {
    var status = stat()
    guard stat(scratch(path), &status) == 0 else { return "none" }
    return String(status.st_mode & 0o7777, radix: 8)
  }

  private func modes(_ directory: String) throws -> [String: String] {
    Dictionary(try FileSystem.names(in: scratch(directory)).map { ($0, mode("\(directory)/\($0)")) }) { $1 }
  }

  @Test(arguments: [("022", "755", "644"), ("077", "700", "600"), ("027", "750", "640"), ("000", "755", "644")])
  func aMergeIsAsOpenAsItsBaseAndTheUmaskLet(umask: String, directory: String, file: String) throws {
    try shell("umask \(umask); peft-tool merge -q base adapter out; cp -r base copy")
    let (found, copied) = (try modes("out"), try modes("copy"))
    #expect(mode("out") == directory && mode("out") == mode("copy"))
    #expect(Set(found.values) == [file] && found["model.safetensors.index.json"] != nil, "\(found)")
    for (name, mode) in found where copied[name] != nil { #expect(copied[name] == mode, "\(name)") }
    try shell("umask \(umask); peft-tool merge -q base adapter one --max-shard-size 1GB")
    #expect(try Set(modes("one").values) == [file])
  }

  @Test func aPrivateBaseStaysPrivate() throws {
    try shell("chmod 700 base; chmod 600 base/model-00002-of-00004.safetensors; chmod 640 base/config.json")
    try shell("umask 022; peft-tool merge -q base adapter out; peft-tool convert -q base converted")
    for output in ["out", "converted"] {
      let found = try modes(output)
      #expect(mode(output) == "700")
      // Tensors of any shard may stand in any file.
      for (name, mode) in found where name.contains("safetensors") { #expect(mode == "600", "\(name)") }
      #expect(found["config.json"] == "640" && found["run.txt"] == "644", "\(found)")
    }
  }

  @Test func whatIsMadeOfSeveralIsAsPrivateAsTheMostPrivateOfThem() throws {
    try overwrite(
      scratch("recipe.yml"),
      "merge_method: linear\nmodels: [{model: base, parameters: {weight: 1}}, {model: secret, parameters: {weight: 1}}]\n"
    )
    try shell(
      "cp -r base secret; chmod 750 secret; chmod 600 secret/model-00001-of-00004.safetensors; umask 022; "
        + "peft-tool merge-models -q recipe.yml mixed --max-shard-size 10KB")
    #expect(mode("mixed") == "750")
    for (name, mode) in try modes("mixed") where name.contains("safetensors") { #expect(mode == "600", "\(name)") }
    try shell(
      "chmod 755 adapter; chmod 644 adapter/*; cp -r adapter hidden; chmod 700 hidden; chmod 640 hidden/adapter_model.safetensors; "
        + "umask 022; peft-tool combine -q adapter hidden sum; peft-tool resize -q hidden small --rank 1")
    for output in ["sum", "small"] {
      #expect(mode(output) == "700" && mode("\(output)/adapter_model.safetensors") == "640", "\(output)")
    }
  }

  @Test func aReadOnlyBaseMergesToReadOnlyFilesInADirectoryOfOnesOwn() throws {
    try shell("chmod 444 base/*.*; chmod 555 base; umask 022; peft-tool merge -q base adapter out; chmod 755 base")
    #expect(mode("out") == "755" || mode("out") == "700", "\(mode("out"))")
    #expect(try Set(modes("out").values) == ["444"])
    try shell("peft-tool merge -q --force base adapter out")
  }

  @Test func whatIsReplacedKeepsItsDirectorysMode() throws {
    try shell("umask 022; mkdir -m 750 out; touch out/old; peft-tool merge -q --force base adapter out")
    #expect(mode("out") == "750")
  }

  @Test(arguments: [("022", "644", "755"), ("077", "600", "700")])
  func whatHasNoSourceFollowsTheUmask(umask: String, file: String, directory: String) throws {
    try shell(
      "umask \(umask); peft-tool init -q base adapter/adapter_config.json fresh; peft-tool convert -q fresh again")
    for output in ["fresh", "again"] {
      #expect(try mode(output) == directory && Set(modes(output).values) == [file])
    }
  }
}
