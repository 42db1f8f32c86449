namespace Sama.Language

open TorchSharp
open Sama

/// What cross entropies are taken of.
module internal Labels =

    /// A classifier may be a regression, or give a text several classes: then it has logits alone.
    /// InvalidOperationException, about `what` was asked for.
    let requireClasses (config: EncoderConfig) (what: string) : unit =
        if config.Labels.Count = 1 then
            invalidOp $"{what}: of one class alone it is 0 whatever the model says; a regression is trained on Logits"

        match Config.problem config with
        | null
        | "single_label_classification" -> ()
        | other ->
            invalidOp
                $"{what} is of one class a text, but 'problem_type' of config.json is '{other}': take Logits, or load with labels of your own"

    /// ArgumentException for a label that is none of 0 .. count − 1. On the CPU alone: no pass waits for a device to ask.
    let require (count: int64) (labels: Tensor) : unit =
        if labels.device_type = DeviceType.CPU && labels.numel () > 0L then
            use _ = torch.NewDisposeScope()
            let least, most = labels.min().item<int64> (), labels.max().item<int64> ()

            if least < 0L || most >= count then
                let wrong = if least < 0L then least else most
                invalidArg (nameof labels) $"a label is {wrong}; 0 to {count - 1L} is expected"
