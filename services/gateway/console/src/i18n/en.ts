// All strings of one language, in one file that is fetched when the language is spoken.
import { gathered } from "@/i18n/gather";
import shared from "@/i18n/en.json";

export default gathered(shared, import.meta.glob("../screens/*/en.json", { eager: true, import: "default" }));
