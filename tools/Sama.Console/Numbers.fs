namespace Sama

open System

/// Numbers on a command line.
module Numbers =

    /// Numbers of a list 0,2 or a range 0-4. ArgumentException for anything else.
    let parse (option: string) (text: string) : int list =
        let bad () =
            raise (
                ArgumentException $"{option} {text}: a list like 0,2 or a range like 0-4 is expected, no number twice"
            )

        let number (part: string) =
            match Int32.TryParse part with
            | true, value when value >= 0 -> value
            | _ -> bad ()

        let numbers =
            match text.Split '-' with
            | [| first; last |] -> [ number first .. number last ]
            | _ -> [ for part in text.Split ',' -> number part ]

        if numbers.IsEmpty || List.distinct numbers <> numbers then
            bad ()

        numbers

    /// The number, unless it is less than what is expected: ArgumentException.
    let atLeast (least: int) (option: string) (value: int) : int =
        if value < least then
            raise (ArgumentException $"{option} {value}: at least {least} is expected")

        value
