import Foundation
import PEFT
import TensorFiles
import TestSupport
import Testing

@Suite struct InspectTests {
  @Test func validateIsOneLineAFindingAndCodeOne() async throws {
    let good = await run("validate", Fixtures.path("merge/llama-f32-qv/adapter"))
    #expect(good.code == 0 && good.output.contains("nothing wrong found"))
    let bad = await run("validate", Fixtures.path("safetensors"))
    #expect(bad.code == 1 && !bad.output.isEmpty)
    let json = await run("validate", "--json", Fixtures.path("safetensors"))
    #expect(json.code == 1 && JSONValue(parsing: json.output)?["valid"] == .bool(false))
    #expect(await run("validate", "/nonexistent").code == 2)
  }

  @Test func controlCharactersFromFilesAreEscaped() async throws {
    let answer = await run("inspect", "/nonexistent/\u{1B}[31mred\u{7}")
    #expect(answer.code == 2 && !answer.error.contains("\u{1B}") && !answer.error.contains("\u{7}"))
  }

  @Test func inspectSaysWhetherABaseFitsAndWhatServersRefuse() async throws {
    let adapter = Fixtures.path("merge/llama-dora/adapter")
    let fits = await run("inspect", adapter, "--base", Fixtures.path("merge/llama-dora/base"))
    #expect(fits.code == 0 && fits.output.contains("verdict: compatible, all 4 modules matched"))
    let other = await run("inspect", adapter, "--base", Fixtures.path("merge/gpt2-conv1d/base"))
    #expect(other.code == 1 && other.output.contains("verdict: not compatible"))
    let served = await run("inspect", adapter, "--for", "vllm", "--json")
    #expect(served.code == 1)
    #expect(JSONValue(parsing: served.output)?["serving"]?["servable"] == .bool(false))
    #expect(await run("inspect", adapter, "--for", "nowhere").code == 2)
  }

  @Test func theReportLoadsNothingFromElsewhere() async throws {
    let scratch = try ScratchDirectory()
    let adapter = Fixtures.path("merge/llama-bf16-all-linear/adapter")
    #expect(await run("inspect", adapter, "--report", scratch("page.html")).code == 0)
    let page = try FileSystem.text(scratch("page.html"))
    #expect(!page.contains("http") && !page.contains("src=") && !page.contains("<script"))
    // A page that is there is not overwritten.
    #expect(await run("inspect", adapter, "--report", scratch("page.html")).code == 2)
  }

  /// Debian's chromium; without it the test says so and is skipped.
  @Test(.enabled(if: FileSystem.kind("/usr/bin/chromium") == .file, "chromium is not installed"))
  func aBrowserShowsTheReport() async throws {
    let scratch = try ScratchDirectory()
    let adapter = Fixtures.path("merge/llama-bf16-all-linear/adapter")
    #expect(await run("inspect", adapter, "--report", scratch("page.html")).code == 0)
    let browser = Process()
    browser.executableURL = URL(fileURLWithPath: "/usr/bin/chromium")
    browser.arguments = [
      "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=\(scratch("profile"))", "--dump-dom",
      "file://\(scratch("page.html"))",
    ]
    let pipe = Pipe()
    browser.standardOutput = pipe
    browser.standardError = FileHandle.nullDevice
    try browser.run()
    let dom = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    browser.waitUntilExit()
    #expect(browser.terminationStatus == 0)
    // Two layers of seven modules, each with a cell and a curve.
    #expect(dom.components(separatedBy: "<td style=").count - 1 == 14)
    #expect(dom.components(separatedBy: "<polyline").count - 1 == 14)
    #expect(dom.contains("All 14 modules are finite"))
  }
}
