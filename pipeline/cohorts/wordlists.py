"""Ordinary words for the grammar: written from memory for this project, taken from no corpus."""

from __future__ import annotations


def listed(text: str) -> list[str]:
    """The words of ``text``."""
    return text.split()


def phrases(text: str) -> list[str]:
    """The phrases of ``text``, one between two bars; a line may end after a bar."""
    return [phrase.strip() for phrase in text.split("|")]


FIRST_NAMES = listed("""
adam alice amanda andrew angela anna arthur barbara benjamin betty brian carol catherine charles christine clara
daniel david deborah denise diana donald dorothy douglas edward elaine elizabeth emily emma eric ethan eva felix
fiona frances frank gary george gloria grace greg hannah harold harry heather helen henry howard ian irene isaac
jack jacob jacqueline james janet jason jeffrey jennifer jessica joan john jonathan joseph joyce judith julia karen
katherine keith kelly kenneth kevin larry laura lawrence leonard linda lisa louis lucy margaret maria mark martha
martin mary matthew maxine megan michael michelle nancy natalie nathan nicholas nicole nora oliver olivia pamela
patrick paul peter philip quentin rachel ralph raymond rebecca richard robert roger ronald rosemary roy ruth
samantha samuel sandra sarah scott sharon shirley simon sophie stanley stephanie stephen steven susan sylvia teresa
thomas timothy valerie vanessa victor vincent virginia walter wendy william xavier yvonne zachary zoe
""")

SURNAMES = listed("""
adams allen anderson andrews armstrong arnold atkinson bailey baker baldwin barker barnes barrett bates baxter
becker bennett bishop black blake bowman bradley brady brooks brown bryant burke burns butler byrne cameron campbell
carpenter carroll carter chambers chandler chapman clark clayton cohen coleman collins cooper cox craig crawford
cross cruz curtis dalton daniels davidson davies davis dawson dean dennis dixon doyle duncan dunn edwards elliott
ellis evans farmer ferguson fernandez fisher fitzgerald fletcher flynn ford foster fowler fox francis franklin
fraser freeman frost fuller garcia gardner gibbs gibson gilbert goodwin gordon graham grant gray green griffin hall
hamilton hansen hardy harper harris harrison hart harvey hawkins hayes henderson hicks higgins hill hoffman holmes
hopkins houston howard hudson hughes hunter jackson jacobs jenkins jensen jimenez johnson johnston jones jordan
joyce kaiser keller kelley kennedy kim king klein knight kowalski kramer lambert larson lawson lee lewis lloyd logan
lopez lynch maxwell mccarthy mcdonald mckenzie meyer miller mitchell moore morgan morris morrison murphy murray
myers nelson newman newton nguyen nichols novak obrien oconnor oliver olson ortiz owens palmer park parker patel
patterson payne pearson perez perkins peters phillips pierce porter potter powell price quigley quinn ramirez reed
reeves reynolds rice richards richardson riley rivera roberts robinson rodriguez rogers rossi russell ryan sanchez
sanders schmidt schneider schultz schwartz scott shaw sherman simmons simpson singh smith snyder spencer stevens
stewart stone sullivan summers tanaka taylor thompson thornton townsend tucker turner underwood valdez vargas
vasquez vaughn vega wagner walker wallace walsh walters ward warren watkins watson weaver webb weber wells wheeler
white wilkins williams willis wilson wong wood woodward wright xiong yang yates young zhang zhou ziegler zimmerman
""")

CITIES = listed("""
albany amsterdam atlanta auckland austin baltimore barcelona belfast berlin birmingham boston brighton brisbane
brooklyn brussels buffalo calgary cambridge cardiff charlotte chester chicago cleveland columbus copenhagen dallas
denver detroit dublin durham edinburgh exeter frankfurt fresno geneva glasgow greenville hamburg helsinki houston
jackson jacksonville jersey kansas kingston lancaster leicester lincoln lisbon liverpool london louisville madison
madrid manchester melbourne memphis miami milwaukee monroe montreal munich nashville newark newcastle newport
norfolk norwich nottingham oakland omaha orlando oslo ottawa oxford paris perth philadelphia phoenix plymouth
portland prague quebec queens richmond rochester rome sacramento salem salisbury savannah seattle sheffield sidney
springfield stockholm swansea syracuse tacoma tampa toledo toronto tucson tulsa utica vancouver venice vienna warsaw
wellington winchester windsor worcester york zurich
""")

STREETS = listed("""
adams ash beech birch bridge broad canal castle cedar center central chapel charles cherry chestnut church clinton
college court crescent cypress dogwood east elm fifth first forest fourth franklin garden grove harbor hickory high
highland hill jefferson juniper king lafayette lake laurel lexington liberty lincoln locust madison magnolia main
maple market meadow mill monroe mountain north oak orchard oxford park pearl pine pleasant poplar prospect queen
quarry railroad ridge river rose school second south spring spruce station summit sunset sycamore third union valley
vine walnut washington water west willow windsor winter woodland
""")

STREET_KINDS = listed("""
street avenue road drive lane court boulevard place
""")

LISTS = {"first name": FIRST_NAMES, "last name": SURNAMES, "city": CITIES, "street": STREETS}

ROOMS = listed("""
kitchen bedroom bathroom hallway garage garden office attic basement nursery dining living
""")

DEVICES = listed("""
lights lamp heater fan radio television alarm curtains door window oven dishwasher camera speaker sprinkler
thermostat kettle blinds doorbell vacuum
""")

TASKS = phrases("""
call the dentist|water the plants|buy milk and bread|pick up the children|pay the rent|take my medicine|
feed the cat|walk the dog|check the oven|charge the car|send the report|book a table|renew my passport|
return the library books|clean the filter|wash the car|order a new battery|visit my grandmother|mail the package|
close the windows
""")

THINGS = listed("""
milk bread eggs coffee tea sugar butter cheese apples bananas carrots potatoes rice onions soap batteries paper
flour honey yogurt tomatoes lemons salt pepper chicken fish noodles olives candles towels
""")

SONGS = phrases("""
jazz|rock music|piano music|the news|classical music|a podcast|my favorite song|folk music|the radio|quiet music|
some blues|dance music|the next chapter|my morning playlist
""")

QUESTIONS = phrases("""
what is the weather in {city}|how far is it to {city}|when does the train to {city} leave|is it raining in {city}|
what time is it in {city}|who is {first} {last}|where does {first} live|how old is {first}|did {first} call me|
when is the birthday of {first}|how do i get to {street} {kind}|is the {room} {device} still on|
how warm is the {room}|what is on my calendar for {weekday}|how many {thing} do we need|
how much is {number} plus {number}|what is {number} times {number}|do we have any {thing} left|
is the store on {street} {kind} open on {weekday}|why is the {device} in the {room} so loud
""")

COMMANDS = phrases("""
turn on the {room} {device}|turn off the {room} {device}|switch off the {device}|open the {room} {device}|
close the {device} in the {room}|set the {room} {device} to {number}|dim the {room} lights to {number} percent|
set a timer for {number} minutes|wake me up at {time}|set an alarm for {time}|remind me to {task}|
remind me to {task} on {weekday}|remind {first} to {task} at {time}|add {thing} to my shopping list|
add {thing} and {thing} to the list|remove {thing} from the list|call {first} {last}|call {first} at work|
send a message to {first}|tell {first} i will be there at {time}|play {song}|play {song} in the {room}|
skip this song|turn the volume up to {number}|navigate to {street} {kind}|take me to {city}|
find a hotel in {city}|show me flights from {city} to {city}|book a taxi for {time}|
read the message from {first} {last}|cancel my meeting with {first} on {weekday}|
move the meeting to {weekday} at {time}|note that {first} paid {amount}|transfer {amount} to {first} {last}|
lock the {room} door
""")

CONTROL = phrases("""
yes|no|stop|go|start|help|repeat|cancel|continue|back|next|enter|erase|delete|undo|clear|exit|pause
""")

CODE_VERBS = phrases("""
enter|erase|delete|repeat|check|select|open|save|clear|insert|remove|confirm|send
""")

WEEKDAYS = listed("""
monday tuesday wednesday thursday friday saturday sunday
""")

MONTHS = listed("""
january february march april may june july august september october november december
""")
