extension StoredAdapter {
  /// The adapters at a path, in whatever form that is read: PEFT's own as it is, any other as PEFT has it, in memory.
  ///
  /// A file of an image model's parts gives one for each, with the part's name.
  /// Throws what `init(directory:)` throws, and for other forms what `AdapterConversion` throws.
  public static func all(at path: String) throws(AdapterError) -> [(component: String?, adapter: StoredAdapter)] {
    do throws(AdapterError) { return [(nil, try StoredAdapter(directory: path))] } catch {
      guard case .foreignAdapter(_, let form) = error, form.dialect != nil else { throw error }
      return try AdapterConversion(path).stored()
    }
  }
}
