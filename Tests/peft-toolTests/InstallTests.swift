import Foundation
import TensorFiles
import TestSupport
import Testing

/// What `make install` and the examples do, with the program that was built here.
@Suite struct InstallTests {
  private func shell(_ script: String, path: String = "/usr/bin:/bin") throws -> (code: Int32, text: String) {
    try peft_toolTests.shell(
      script, in: Fixtures.root, environment: ["PATH": path, "HOME": "/nonexistent", "HF_HUB_OFFLINE": "1"])
  }

  @Test func anInstallationHasTheCommandManPageAndCompletionsAndIsTakenAway() throws {
    let scratch = try ScratchDirectory()
    let tool = built("peft-tool").path
    let installed = try shell("Tools/install '\(tool)' '\(scratch("root"))'")
    #expect(installed.code == 0 && installed.text.isEmpty, "\(installed.text)")
    #expect(try shell("'\(scratch("root"))/bin/peft-tool' --version").text.hasPrefix("peft-tool "))
    let files = try shell("cd '\(scratch("root"))' && find . -type f -printf '%m %P\\n' | sort").text
    #expect(
      files == """
        644 share/bash-completion/completions/peft-tool
        644 share/fish/vendor_completions.d/peft-tool.fish
        644 share/man/man1/peft-tool.1
        644 share/zsh/site-functions/_peft-tool
        755 bin/peft-tool

        """, "\(files)")
    for (file, sign) in [
      ("share/man/man1/peft-tool.1", ".TH PEFT"), ("share/bash-completion/completions/peft-tool", "complete -o"),
      ("share/zsh/site-functions/_peft-tool", "#compdef peft-tool"),
      ("share/fish/vendor_completions.d/peft-tool.fish", "complete -c peft-tool"),
    ] {
      #expect(try FileSystem.text(scratch("root/\(file)")).contains(sign), "\(file)")
    }
    #expect(try shell("Tools/install --remove '\(scratch("root"))'").code == 0)
    #expect(try shell("find '\(scratch("root"))' -type f").text.isEmpty)
  }

  /// Where a namespace of one's own may be made; Swift's runtime would end with a trap.
  @Test func withoutProcTheProgramSaysSoInOneLine() throws {
    let own = "unshare --map-root-user --mount -- bash -c 'mount -t tmpfs none /proc && exec \"$@\"' bash"
    guard try shell("\(own) true").code == 0 else { return }
    let answer = try shell("\(own) '\(built("peft-tool").path)' --version")
    #expect(answer.code == 2 && answer.text.hasPrefix("peft-tool: /proc: not mounted"), "\(answer.text)")
    #expect(answer.text.split(separator: "\n").count == 1)
  }

  @Test(arguments: ["install", "uninstall"]) func makePutsThePrefixBelowTheDestination(target: String) throws {
    let said = try shell("make -n \(target) PREFIX=/opt/tools DESTDIR=/stage", path: "/usr/bin:/bin").text
    #expect(said.contains("/stage/opt/tools\n") && !said.contains("/usr/local"), "\(said)")
  }

  @Test func theExamplesSessionInTheShellRuns() throws {
    let model = Fixtures.path("merge/llama-bf16-all-linear")
    let tools = built("peft-tool").deletingLastPathComponent().path
    let answer = try shell("examples/session.sh '\(model)/base' '\(model)/adapter'", path: "\(tools):/usr/bin:/bin")
    #expect(answer.code == 0 && answer.text.contains("14 of 14 adapter modules matched"), "\(answer.text)")
  }
}
