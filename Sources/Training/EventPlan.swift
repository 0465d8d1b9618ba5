/// What is due after a step: a log, an evaluation, a checkpoint.
///
/// Source: transformers/trainer_callback.py `DefaultFlowCallback`, `TrainerState.compute_steps`.
struct EventPlan {
  let arguments: TrainingArguments
  let steps: Int
  let loggingSteps: Int
  let evaluationSteps: Int
  let saveSteps: Int

  /// Throws `.contradiction` where the best checkpoint is wanted and there may be none.
  init(_ arguments: TrainingArguments, steps: Int, evaluates: Bool) throws(TrainingError) {
    func count(_ value: Double) -> Int {
      max(1, Int((value < 1 ? value * Double(steps) : value).rounded(.up)))
    }
    self.arguments = arguments
    self.steps = steps
    loggingSteps = count(arguments.loggingSteps)
    evaluationSteps = count(arguments.evaluationSteps ?? arguments.loggingSteps)
    saveSteps = count(arguments.saveSteps)
    guard arguments.evaluationInterval == .no || evaluates else {
      throw .contradiction("eval_strategy is \(arguments.evaluationInterval.rawValue), but there is no --eval-data.")
    }
    let wantsBest = arguments.loadsBest || arguments.saveInterval == .best
    guard !wantsBest || arguments.evaluationInterval != .no else {
      throw .contradiction(
        "load_best_model_at_end and save_strategy best need an eval_strategy: give --eval-strategy steps or epoch.")
    }
    guard arguments.loadsBest && arguments.saveInterval != .best else { return }
    guard arguments.saveInterval == arguments.evaluationInterval else {
      throw .contradiction(
        "load_best_model_at_end needs save_strategy \(arguments.saveInterval.rawValue) and eval_strategy "
          + "\(arguments.evaluationInterval.rawValue) to be the same, or save_strategy best.")
    }
    guard arguments.saveInterval != .steps || saveSteps % evaluationSteps == 0 else {
      throw .contradiction(
        "load_best_model_at_end needs save_steps, which is \(saveSteps), to be a multiple of eval_steps, which is "
          + "\(evaluationSteps).")
    }
  }

  /// Which figure of an evaluation counts, and whether more of it is better; nil where none does.
  var bestMetric: (name: String, greaterIsBetter: Bool)? {
    let wanted = arguments.loadsBest || arguments.saveInterval == .best
    guard let name = arguments.bestMetric ?? (wanted ? "loss" : nil) else { return nil }
    let isLoss = name.hasSuffix("loss") || name.hasSuffix("nll_per_token")
    return (name.hasPrefix("eval_") ? name : "eval_\(name)", arguments.greaterIsBetter ?? !isLoss)
  }

  func logs(_ step: TrainingStep) -> Bool {
    if step.step == 1 && arguments.logsFirstStep { return true }
    return isDue(step, arguments.loggingInterval, every: loggingSteps)
  }

  func evaluates(_ step: TrainingStep) -> Bool {
    let reached = arguments.evaluationInterval == .epoch ? step.epoch : Double(step.step)
    guard arguments.evaluationDelay <= reached else { return false }
    return isDue(step, arguments.evaluationInterval, every: evaluationSteps)
      || arguments.evaluationInterval == .steps && step.step == steps
  }

  /// - Parameter isBest: true after an evaluation that was better than all before it.
  func saves(_ step: TrainingStep, isBest: Bool) -> Bool {
    switch arguments.saveInterval {
    case .best: isBest
    case .steps: step.step == steps || step.step % saveSteps == 0
    case .epoch: step.endsEpoch
    case .no: false
    }
  }

  private func isDue(_ step: TrainingStep, _ interval: TrainingInterval, every count: Int) -> Bool {
    switch interval {
    case .steps: step.step % count == 0
    case .epoch: step.endsEpoch
    case .no, .best: false
    }
  }
}
