import PEFT
import TensorFiles
import TestSupport
import Testing

/// `convert --to`, and the commands that repair an adapter.
@Suite struct ConvertCommandTests {
  private static let adapter = Fixtures.path("merge/llama-f32-qv/adapter")
  private static let base = Fixtures.path("merge/llama-f32-qv/base")

  @Test func anAdapterGoesToAnotherFormAndBack() async throws {
    let scratch = try ScratchDirectory()
    let there = await run("convert", Self.adapter, scratch("a.gguf"), "--to", "gguf", "--base", Self.base)
    #expect(there.code == 0 && there.output.contains("bit for bit"), "\(there.error)")
    let back = await run("convert", "--json", scratch("a.gguf"), scratch("back"), "--to", "peft")
    let answer = try #require(JSONValue(parsing: back.output))
    #expect(answer["from"] == .string("gguf") && answer["notes"] == .array([]))
    let file = "adapter_model.safetensors"
    #expect(try contents(scratch("back/\(file)")) == contents("\(Self.adapter)/\(file)"))
    // Nothing that exists is replaced without being told.
    #expect(await run("convert", Self.adapter, scratch("a.gguf"), "--to", "gguf", "--base", Self.base).code == 2)
    let forced = await run("convert", Self.adapter, scratch("a.gguf"), "--to", "gguf", "--base", Self.base, "--force")
    #expect(forced.code == 0)
  }

  @Test func whatCannotBeCarriedIsListedWithItsCureAndTheAnswerIsNo() async throws {
    let head = Fixtures.path("merge/llama-saved-head/adapter")
    let check = await run("convert", head, "--to", "mlx", "--check")
    #expect(check.code == 1 && check.output.contains("cure: peft-tool merge"))
    let json = JSONValue(parsing: await run("convert", head, "--to", "mlx", "--check", "--json").output)
    #expect(json?["obstacles"]?.elements?.isEmpty == false)
    #expect(await run("convert", Self.adapter, "--to", "mlx", "--check").code == 0)
    #expect(await run("convert", Self.adapter, "--to", "mlx").code == 2)
    #expect(await run("convert", Self.adapter).code == 2)
    #expect(await run("convert", Self.adapter, "--check").code == 2)
  }

  @Test func adaptersAreRepaired() async throws {
    let scratch = try ScratchDirectory()
    let slim = await run("slim", Self.adapter, scratch("slim"), "--base", Self.base)
    #expect(slim.code == 0 && slim.output.contains("no tensor is the base's own"), "\(slim.error)")
    #expect(await run("rename-keys", Self.adapter, scratch("renamed"), "--base", Self.base).code == 0)
    #expect(await run("fix-config", Self.adapter, scratch("fixed"), "--target-peft", "0.5").code == 0)
    #expect(await run("fix-config", Self.adapter, scratch("none")).code == 2)
    #expect(await run("slim", Self.adapter, scratch("none")).code == 2)
    let file = "\(Self.adapter)/adapter_model.safetensors"
    #expect(await run("repair-metadata", file, scratch("repaired.safetensors")).code == 0)
    for name in ["slim", "renamed", "fixed"] {
      #expect(try contents(scratch("\(name)/adapter_model.safetensors")) == contents(file), "\(name)")
    }
    #expect(try contents(scratch("repaired.safetensors")) == contents(file))
  }
}
