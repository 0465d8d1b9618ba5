internal import TensorFiles

extension AdapterResize {
  /// Writes the resized adapters of several parts of a pipeline, each into the directory of its name. `output` appears whole or not at
  /// all.
  ///
  /// - Parameter source: where they were read from.
  /// Other parameters, and what is thrown, as of `write(to:replacing:workers:)`.
  public static func write(
    _ parts: [(component: String, resize: AdapterResize)], from source: String, to output: String,
    replacing: Bool = false, workers: Int = 2
  ) async throws -> WorkbenchReport {
    let directory: OutputDirectory
    do { directory = try OutputDirectory(target: output, replacing: replacing, inputs: [source]) } catch {
      throw AdapterError.file(error)
    }
    var report = WorkbenchReport(modules: [], notes: [])
    do {
      for (component, resize) in parts {
        let part = try await resize.write(to: directory.path(component), workers: workers)
        report.modules += part.modules.map { $0.within(component) }
        report.notes += part.notes
      }
      try asAdapterError { () throws(TensorFileError) in try directory.commit(durable: false) }
      return report
    } catch {
      directory.discard()
      throw error
    }
  }
}
