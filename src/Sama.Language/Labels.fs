namespace Sama.Language

open TorchSharp
open Sama

/// What cross entropies are taken of.
module internal Labels =

    /// Why a classifier has logits alone, which is a regression or gives a text several classes: what follows the name of
    /// what was asked for. Null for one of one class a text.
    let refusal (config: EncoderConfig) : string =
        if config.Labels.Count = 1 then
            ": of one class alone it is 0 whatever the model says; a regression is trained on Logits"
        else
            match Config.problem config with
            | null
            | "single_label_classification" -> null
            | other ->
                $" is of one class a text, but 'problem_type' of config.json is '{other}': take Logits, or load with labels of your own"

    /// ArgumentException for a label that is none of 0 .. count − 1. On the CPU alone: no pass waits for a device to ask.
    let require (count: int64) (labels: Tensor) : unit =
        if labels.device_type = DeviceType.CPU && labels.numel () > 0L then
            use _ = torch.NewDisposeScope()
            let least, most = labels.min().item<int64> (), labels.max().item<int64> ()

            if least < 0L || most >= count then
                let wrong = if least < 0L then least else most
                invalidArg (nameof labels) $"a label is {wrong}; 0 to {count - 1L} is expected"
