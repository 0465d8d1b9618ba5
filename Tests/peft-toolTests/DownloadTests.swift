import Foundation
import TensorFiles
import TestSupport
import Testing

/// Downloads as the program makes them.
@Suite struct DownloadTests {
  private let scratch: ScratchDirectory
  private let hub: ModelHub

  /// A hub that sends the beginning of the first file of weights and then nothing.
  init() throws {
    scratch = try ScratchDirectory()
    hub = try ModelHub(directory: Fixtures.path("merge/llama-sharded/base")) { path, count, honest in
      guard path.hasSuffix("00001-of-00004.safetensors"), count == 0 else { return nil }
      return LocalServer.Response(
        "200 OK", headers: ["Content-Length: \(honest.body.count)"], body: Array(honest.body[..<500]), ending: .silence)
    }
  }

  private func start(_ error: Pipe) throws -> Process {
    let process = Process()
    process.executableURL = built("peft-tool")
    process.arguments = ["tree", "owner/tiny@\(ModelHub.commit)"]
    process.environment = ProcessInfo.processInfo.environment.merging([
      "HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": scratch("hub"), "HF_HUB_OFFLINE": "0",
    ]) { $1 }
    process.standardOutput = FileHandle.nullDevice
    process.standardError = error
    try process.run()
    return process
  }

  private var part: String? {
    let blobs = scratch("hub/models--owner--tiny/blobs")
    return try? FileSystem.names(in: blobs).first { $0.hasSuffix(".incomplete") }.map { "\(blobs)/\($0)" }
  }

  @Test(arguments: [SIGINT, SIGTERM, SIGHUP, SIGKILL])
  func aSignalEndsADownloadWithItsCurlAndTheNextRunGoesOn(signal: Int32) throws {
    defer { hub.server.stop() }
    let error = Pipe()
    let process = try start(error)
    #expect(comes { part.map { (try? contents($0).count) == 500 } ?? false })
    kill(process.processIdentifier, signal)
    process.waitUntilExit()
    // curl's connection is gone, and so is curl.
    #expect(comes { hub.server.departures == 1 })
    let said = String(decoding: error.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    if signal != SIGKILL {
      #expect(process.terminationReason == .exit && process.terminationStatus == 2)
      #expect(said.contains("the download was interrupted"))
    }
    #expect(try contents(try #require(part)).count == 500)
    let again = try start(Pipe())
    again.waitUntilExit()
    #expect(again.terminationStatus == 0)
    #expect(hub.fetches(of: "model-00001-of-00004.safetensors").map { $0.headers["range"] } == [nil, "bytes=500-"])
  }
}
